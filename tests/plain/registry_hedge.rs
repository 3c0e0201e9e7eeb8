//! A range whose bytes do not come is asked for a second time while the first request goes on. All time limits are far longer here
//! than a test may take, so that nothing else can help.

use std::time::Duration;

use harness::disk_image::half_random;
use harness::faults::{Fault, When};
use harness::registry::{Habits, Server, TestRegistry};
use soci_core::registry::{RangeFetcher, Registry, RegistryError, RegistryOptions};
use soci_core::units::ByteRange;
use tokio::task::JoinSet;

const SIZE: u64 = 600_000;
const LONG: Duration = Duration::from_mins(10);

struct Scene {
    registry: TestRegistry,
    fetcher: RangeFetcher,
    blob: Vec<u8>,
}

impl Scene {
    fn new(habits: Habits, change: impl FnOnce(&mut RegistryOptions)) -> Self {
        let registry = TestRegistry::with(habits);
        let mut options = RegistryOptions::default();
        options.timeouts.header = LONG;
        options.timeouts.stall = LONG;
        options.timeouts.hedge = Some(Duration::from_millis(200));
        change(&mut options);
        let client = Registry::new(options);
        let blob = half_random(SIZE as usize, 7);
        let digest = registry.put_blob(blob.clone());
        let fetcher = client.repository(&registry.image("a").parse().unwrap()).range_fetcher(digest, SIZE);
        Self { registry, fetcher, blob }
    }

    async fn read(&self) -> Result<Vec<u8>, RegistryError> {
        let read = async { self.fetcher.fetch(ByteRange::new(0, SIZE)).await?.collect().await };
        tokio::time::timeout(LONG / 10, read).await.expect("it is not waited for the one that hangs")
    }

    fn requests(&self) -> usize {
        self.registry.requests().iter().filter(|request| request.range.is_some()).count()
    }
}

#[tokio::test]
async fn what_does_not_come_is_asked_for_again_while_the_first_request_goes_on() {
    let of_blob = || When::path("/blobs/");
    for fault in [Fault::Hang, Fault::Stall(0), Fault::Stall(1), Fault::Stall(500_000), Fault::Drip(1000)] {
        for turns in [1, 3] {
            let scene = Scene::new(Habits::default(), |_| {});
            scene.registry.faults().add_times(of_blob(), fault.clone(), turns);
            assert!(scene.read().await.unwrap() == scene.blob, "{fault:?}");
            let most = 1 + turns as usize;
            assert!((2..=most).contains(&scene.requests()), "{fault:?} {turns}: {}", scene.requests());
        }
    }
}

#[tokio::test]
async fn a_redirect_that_does_not_come_holds_up_nobody() {
    let scene = Scene::new(Habits { redirect_blobs: true, ..Habits::default() }, |_| {});
    scene.registry.faults().add_times(When::always().on(Server::Registry), Fault::Hang, 1);
    let (one, other) = tokio::join!(scene.read(), scene.read());
    assert!(one.unwrap() == scene.blob && other.unwrap() == scene.blob);
}

#[tokio::test]
async fn slow_answers_are_not_thrown_away() {
    let scene = Scene::new(Habits::default(), |_| {});
    let first = When::path("/blobs/");
    scene.registry.faults().add_times(first.clone(), Fault::Latency(Duration::from_millis(600)), 1);
    scene.registry.faults().add(first, Fault::Hang);
    assert!(scene.read().await.unwrap() == scene.blob);
    assert!(scene.requests() >= 2, "others were made, and hang");
}

#[tokio::test]
async fn who_is_asked_to_wait_does_not_ask_again_meanwhile() {
    let scene = Scene::new(Habits::default(), |_| {});
    scene.registry.faults().add_times(When::path("/blobs/"), Fault::Status(429, Some("2".to_owned())), 1);
    assert!(scene.read().await.unwrap() == scene.blob);
    assert_eq!(scene.requests(), 2);
}

#[tokio::test]
async fn a_registry_that_answers_nobody_gets_few_requests_more() {
    let scene = Scene::new(Habits::default(), |options| {
        options.timeouts.header = Duration::from_secs(2);
        options.retry.max_retries = 0;
    });
    scene.registry.faults().add(When::always(), Fault::Hang);
    assert!(matches!(scene.read().await, Err(RegistryError::TimedOut { .. })));
    assert_eq!(scene.requests(), 1, "no retry is left, and so no second request");
    let scene = Scene::new(Habits::default(), |options| {
        options.timeouts.header = Duration::from_secs(2);
        options.retry.max_retries = 1;
    });
    scene.registry.faults().add(When::always(), Fault::Hang);
    let mut all = JoinSet::new();
    for _ in 0..30 {
        let fetcher = scene.fetcher.clone();
        all.spawn(async move { fetcher.fetch(ByteRange::new(0, SIZE)).await.is_err() });
    }
    assert!(all.join_all().await.into_iter().all(|failed| failed));
    let requests = scene.requests();
    assert!((31..=30 * 2 + 4 * 24).contains(&requests), "{requests} requests");
}
