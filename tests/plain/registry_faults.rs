//! Ranged and whole reads against every bad answer: the bytes are right or there is an error of the right kind,
//! and the number of requests is what it should be.

use std::time::Duration;

use bytes::Bytes;
use harness::faults::{Fault, When};
use harness::registry::{Habits, Request, Server, TestRegistry};
use soci_core::digest::Digest;
use soci_core::registry::{
    Phase, RangeFetcher, Registry, RegistryError, RegistryOptions, Repository, RequestKind, RetryPolicy,
};
use soci_core::units::ByteRange;

const RETRIES: u32 = 3;

/// A client with short waits between attempts, which gives up on a body after a silence of `stall`.
fn client(stall: Duration) -> Registry {
    let mut options = RegistryOptions {
        retry: RetryPolicy {
            max_retries: RETRIES,
            min_wait: Duration::from_millis(1),
            max_wait: Duration::from_secs(3),
        },
        ..RegistryOptions::default()
    };
    options.timeouts.stall = stall;
    Registry::new(options)
}

/// Bytes without a repeating pattern.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

struct Scene {
    registry: TestRegistry,
    client: Registry,
    repository: Repository,
    blob: Vec<u8>,
    digest: Digest,
}

impl Scene {
    fn new(habits: Habits, size: usize) -> Self {
        Self::with_stall(habits, size, Duration::from_secs(20))
    }

    fn with_stall(habits: Habits, size: usize, stall: Duration) -> Self {
        let registry = TestRegistry::with(habits);
        let client = client(stall);
        let repository = client.repository(&registry.image("some/name").parse().unwrap());
        let blob = noise(size);
        let digest = registry.put_blob(blob.clone());
        Self { registry, client, repository, blob, digest }
    }

    fn plain() -> Self {
        Self::new(Habits::default(), 3 << 20)
    }

    fn redirecting() -> Self {
        Self::new(Habits { redirect_blobs: true, ..Habits::default() }, 3 << 20)
    }

    fn fetcher(&self) -> RangeFetcher {
        self.repository.range_fetcher(self.digest, self.blob.len() as u64)
    }

    fn fault(&self, fault: Fault, turns: u32) {
        self.registry.faults().add_times(When::always(), fault, turns);
    }

    /// Reads the range and compares.
    async fn check(&self, fetcher: &RangeFetcher, start: usize, end: usize) {
        let bytes = read(fetcher, start, end).await.unwrap();
        assert!(bytes == self.blob[start..end], "wrong bytes in {start}..{end}");
    }

    fn requests(&self) -> Vec<Request> {
        self.registry.requests()
    }
}

async fn read(fetcher: &RangeFetcher, start: usize, end: usize) -> Result<Bytes, RegistryError> {
    let mut body = fetcher.fetch(ByteRange::new(start as u64, end as u64)).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.chunk().await? {
        assert!(!piece.is_empty());
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(body.remaining(), Some(0));
    assert!(body.chunk().await.unwrap().is_none(), "a finished body stays finished");
    Ok(bytes.into())
}

#[tokio::test]
async fn ranges_of_every_shape_take_one_request_each() {
    let scene = Scene::plain();
    let (fetcher, size) = (scene.fetcher(), scene.blob.len());
    for (count, (start, end)) in
        [(0, 1), (0, size), (size - 1, size), (1000, 1001), (4095, 1 << 20), (1 << 20, size)]
            .into_iter()
            .enumerate()
    {
        scene.check(&fetcher, start, end).await;
        let requests = scene.requests();
        assert_eq!(requests.len(), count + 1);
        assert_eq!(requests[count].range, Some(format!("bytes={start}-{}", end - 1)));
    }
    assert_eq!(scene.client.traffic().requests(RequestKind::Range), 6);
}

#[tokio::test]
async fn empty_and_outlying_ranges_need_no_request() {
    let scene = Scene::plain();
    let (fetcher, size) = (scene.fetcher(), scene.blob.len());
    scene.check(&fetcher, 0, 0).await;
    scene.check(&fetcher, size, size).await;
    let error = read(&fetcher, size - 1, size + 1).await.unwrap_err();
    assert!(matches!(error, RegistryError::RangeNotSatisfiable { .. }), "{error:?}");
    assert!(scene.requests().is_empty());
}

#[tokio::test]
async fn received_bytes_are_counted_once() {
    let scene = Scene::plain();
    scene.check(&scene.fetcher(), 100, 900_100).await;
    assert_eq!(scene.client.traffic().bytes_received(), 900_000);
}

#[tokio::test]
async fn connections_are_kept() {
    let scene = Scene::redirecting();
    let fetcher = scene.fetcher();
    for at in 0..50 {
        scene.check(&fetcher, at * 1000, at * 1000 + 50_000).await;
    }
    for server in [Server::Registry, Server::Cdn] {
        let connections = scene.registry.connections(server);
        assert!(connections <= 3, "{connections} connections to {server:?} for reads one after another");
    }
}

#[tokio::test]
async fn redirect_is_looked_up_once() {
    let scene = Scene::redirecting();
    let fetcher = scene.fetcher();
    for at in 0..5 {
        scene.check(&fetcher.clone(), at * 1000, at * 1000 + 5000).await;
    }
    assert_eq!((scene.registry.count(Server::Registry), scene.registry.count(Server::Cdn)), (1, 5));
}

#[tokio::test]
async fn concurrent_first_reads_share_the_look_up() {
    let scene = Scene::redirecting();
    let fetcher = scene.fetcher();
    scene.registry.faults().add(When::always(), Fault::Latency(Duration::from_millis(30)));
    let reads = (0..8).map(|at| scene.check(&fetcher, at * 1000, at * 1000 + 5000));
    futures_join(reads).await;
    assert_eq!((scene.registry.count(Server::Registry), scene.registry.count(Server::Cdn)), (1, 8));
}

/// Runs all at once.
async fn futures_join(all: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn expired_redirect_is_looked_up_again() {
    let scene = Scene::redirecting();
    let fetcher = scene.fetcher();
    scene.check(&fetcher, 0, 10).await;
    scene.registry.expire_redirects();
    scene.registry.forget_requests();
    scene.check(&fetcher, 10, 20).await;
    scene.check(&fetcher, 20, 30).await;
    let statuses: Vec<_> = scene.requests().iter().map(|request| (request.server, request.status)).collect();
    let expected = [(Server::Cdn, 403), (Server::Registry, 307), (Server::Cdn, 206), (Server::Cdn, 206)];
    assert_eq!(statuses, expected);
}

#[tokio::test]
async fn download_server_that_forbids_for_good_is_an_error() {
    let scene = Scene::redirecting();
    scene.registry.faults().add(When::always().on(Server::Cdn), Fault::Status(403, None));
    let error = read(&scene.fetcher(), 0, 10).await.unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error:?}");
    assert_eq!(scene.requests().len(), 2);
}

#[tokio::test]
async fn redirect_loop_ends_after_ten() {
    let scene = Scene::plain();
    scene.registry.faults().add(When::always(), Fault::RedirectLoop);
    let error = read(&scene.fetcher(), 0, 10).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooManyRedirects { .. }), "{error:?}");
    assert_eq!(scene.requests().len(), 11);
}

#[tokio::test]
async fn redirect_to_nonsense_is_an_error() {
    for target in ["file:///etc/passwd", "ftp://x/", "http://[", "http://"] {
        let scene = Scene::plain();
        scene.fault(Fault::RedirectTo(target.to_owned()), 100);
        let error = read(&scene.fetcher(), 0, 10).await.unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{target}: {error:?}");
        assert_eq!(scene.requests().len(), 1);
    }
}

#[tokio::test]
async fn transient_statuses_are_retried_and_reported_when_they_stay() {
    for status in [408, 429, 500, 502, 503, 504] {
        let scene = Scene::plain();
        scene.fault(Fault::Status(status, None), 2);
        scene.check(&scene.fetcher(), 7, 70_000).await;
        assert_eq!(scene.requests().len(), 3);
        assert_eq!(scene.client.traffic().retries(), 2);

        scene.fault(Fault::Status(status, None), 100);
        scene.registry.forget_requests();
        let error = read(&scene.fetcher(), 7, 70_000).await.unwrap_err();
        match status {
            429 => assert!(matches!(error, RegistryError::RateLimited { .. }), "{error:?}"),
            _ => assert!(matches!(error, RegistryError::Unavailable { .. }), "{error:?}"),
        }
        assert!(error.is_transient());
        assert_eq!(scene.requests().len(), 1 + RETRIES as usize);
    }
}

#[tokio::test]
async fn final_statuses_are_not_retried() {
    type Kind = fn(&RegistryError) -> bool;
    let kinds: [(u16, Kind); 6] = [
        (400, |error| matches!(error, RegistryError::Status { status: 400, .. })),
        (401, |error| matches!(error, RegistryError::Unauthorized { .. })),
        (403, |error| matches!(error, RegistryError::Denied { .. })),
        (404, |error| matches!(error, RegistryError::NotFound { .. })),
        (416, |error| matches!(error, RegistryError::RangeNotSatisfiable { .. })),
        (501, |error| matches!(error, RegistryError::Status { status: 501, .. })),
    ];
    for (status, is_kind) in kinds {
        let scene = Scene::plain();
        scene.fault(Fault::Status(status, None), 100);
        let error = read(&scene.fetcher(), 5, 10).await.unwrap_err();
        assert!(is_kind(&error), "{status}: {error:?}");
        assert!(!error.is_transient());
        assert_eq!(scene.requests().len(), 1);
    }
}

#[tokio::test]
async fn retry_after_that_is_too_long_ends_the_attempts() {
    let scene = Scene::plain();
    scene.fault(Fault::Status(503, Some("3600".to_owned())), 1);
    let error = read(&scene.fetcher(), 0, 10).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_hours(1)), "{error:?}");
    assert_eq!(scene.requests().len(), 1);

    scene.fault(Fault::Status(503, Some("Wed, 01 May 2024 11:00:00 GMT".to_owned())), 1);
    scene.check(&scene.fetcher(), 0, 10).await;
}

#[tokio::test]
async fn truncated_body_is_resumed_where_it_broke() {
    for reset_connections in [false, true] {
        let scene = Scene::new(Habits { reset_connections, ..Habits::default() }, 1 << 20);
        scene.fault(Fault::Truncate(100_000), 2);
        scene.check(&scene.fetcher(), 50, 1_000_000).await;
        let ranges: Vec<_> = scene.requests().into_iter().filter_map(|request| request.range).collect();
        if reset_connections {
            // A reset may throw away what was still on its way.
            assert_eq!(ranges.len(), 3);
        } else {
            assert_eq!(ranges, ["bytes=50-999999", "bytes=100050-999999", "bytes=200050-999999"]);
        }
    }
}

#[tokio::test]
async fn truncation_for_ever_is_an_error_and_no_byte_is_wrong() {
    let scene = Scene::plain();
    scene.registry.faults().add(When::always(), Fault::Truncate(1000));
    let mut body = scene.fetcher().fetch(ByteRange::new(0, 100_000)).await.unwrap();
    let mut bytes = Vec::new();
    let error = loop {
        match body.chunk().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => panic!("a broken body ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(bytes.len(), 1000 * (1 + RETRIES as usize));
    assert!(scene.blob.starts_with(&bytes));
}

#[tokio::test]
async fn stalled_body_is_resumed() {
    let scene = Scene::with_stall(Habits::default(), 1 << 20, Duration::from_millis(300));
    scene.fault(Fault::Stall(5000), 1);
    scene.check(&scene.fetcher(), 0, 20_000).await;
    let ranges: Vec<_> = scene.requests().into_iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges, ["bytes=0-19999", "bytes=5000-19999"]);
}

#[tokio::test]
async fn a_body_that_drips_is_resumed() {
    let scene = Scene::with_stall(Habits::default(), 1 << 20, Duration::from_millis(300));
    scene.fault(Fault::Throttle(100), 1);
    scene.check(&scene.fetcher(), 0, 20_000).await;
    assert_eq!(scene.requests().len(), 2);
}

#[tokio::test]
async fn silence_is_a_time_out() {
    let scene = Scene::plain();
    scene.registry.faults().add(When::always(), Fault::Hang);
    let mut options = RegistryOptions::default();
    options.retry.max_retries = 1;
    options.timeouts.connect = Duration::from_millis(100);
    options.timeouts.header = Duration::from_millis(100);
    let client = Registry::new(options);
    let repository = client.repository(&scene.registry.image("a").parse().unwrap());
    let error = read(&repository.range_fetcher(scene.digest, 100), 0, 10).await.unwrap_err();
    assert!(matches!(error, RegistryError::TimedOut { phase: Phase::Header, .. }), "{error:?}");
    assert_eq!(scene.requests().len(), 2);
}

#[tokio::test]
async fn wrong_ranges_are_refused() {
    for fault in
        [Fault::ShiftContentRange(1), Fault::ShiftContentRange(-1), Fault::NoContentRange, Fault::Encoded]
    {
        let scene = Scene::plain();
        scene.fault(fault.clone(), 100);
        let error = read(&scene.fetcher(), 500, 1000).await.unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{fault:?}: {error:?}");
        assert_eq!(scene.requests().len(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn wrong_range_from_a_download_server_is_asked_for_once_more() {
    let scene = Scene::redirecting();
    let fetcher = scene.fetcher();
    scene.check(&fetcher, 0, 10).await;
    scene.fault(Fault::ShiftContentRange(1), 1);
    scene.check(&fetcher, 500, 1000).await;
    assert_eq!((scene.registry.count(Server::Registry), scene.registry.count(Server::Cdn)), (2, 3));
}

#[tokio::test]
async fn blob_of_another_size_is_refused() {
    let scene = Scene::plain();
    let fetcher = scene.repository.range_fetcher(scene.digest, scene.blob.len() as u64 + 1);
    let error = read(&fetcher, 500, 1000).await.unwrap_err();
    assert!(matches!(error, RegistryError::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn whole_blob_in_place_of_a_range_is_asked_for_once_more_when_it_is_dear() {
    let scene = Scene::plain();
    scene.registry.faults().add(When::always(), Fault::IgnoreRange);
    scene.check(&scene.fetcher(), 0, 1000).await;
    scene.check(&scene.fetcher(), 300_000, 301_000).await;
    assert_eq!(scene.requests().len(), 2);
    scene.check(&scene.fetcher(), 2 << 20, (2 << 20) + 10).await;
    assert_eq!(scene.requests().len(), 4);
}

#[tokio::test]
async fn registry_gone_in_mid_read_is_a_transport_error() {
    let mut scene = Scene::plain();
    scene.fault(Fault::Throttle(200_000), 1);
    let mut body = scene.fetcher().fetch(ByteRange::new(0, 1 << 20)).await.unwrap();
    let first = body.chunk().await.unwrap().unwrap();
    scene.registry.stop();
    let mut bytes = first.to_vec();
    let error = loop {
        match body.chunk().await {
            Ok(piece) => bytes.extend_from_slice(&piece.expect("the body cannot be whole")),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, RegistryError::Transport { .. }), "{error:?}");
    assert!(scene.blob.starts_with(&bytes));
}

#[tokio::test]
async fn slow_reader_and_slow_server_give_the_same_bytes() {
    let scene = Scene::plain();
    scene.fault(Fault::Throttle(4 << 20), 1);
    scene.check(&scene.fetcher(), 0, 400_000).await;
    scene.fault(Fault::Latency(Duration::from_millis(50)), 1);
    scene.check(&scene.fetcher(), 0, 400_000).await;
    assert_eq!(scene.requests().len(), 2);
}

#[tokio::test]
async fn dropped_chunk_future_loses_nothing() {
    let scene = Scene::plain();
    scene.fault(Fault::Throttle(2 << 20), 1);
    let mut body = scene.fetcher().fetch(ByteRange::new(0, 200_000)).await.unwrap();
    let mut bytes = Vec::new();
    loop {
        // A time-out drops the future of a piece that has not come yet.
        let Ok(piece) = tokio::time::timeout(Duration::from_millis(1), body.chunk()).await else { continue };
        let Some(piece) = piece.unwrap() else { break };
        bytes.extend_from_slice(&piece);
    }
    assert!(bytes == scene.blob[..200_000]);
    assert_eq!(scene.requests().len(), 1);
}

#[tokio::test]
async fn whole_blobs_survive_faults_and_are_verified() {
    let scene = Scene::redirecting();
    let limit = scene.blob.len() as u64;
    assert!(scene.repository.blob(&scene.digest, limit).await.unwrap() == scene.blob);

    scene.registry.faults().add_times(When::always().on(Server::Cdn), Fault::Truncate(1 << 20), 2);
    assert!(scene.repository.blob(&scene.digest, limit).await.unwrap() == scene.blob);

    let error = scene.repository.blob(&scene.digest, limit - 1).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");

    scene.registry.faults().add_times(When::always().on(Server::Cdn), Fault::Corrupt, 1);
    let error = scene.repository.blob(&scene.digest, limit).await.unwrap_err();
    assert!(matches!(error, RegistryError::Digest { .. }), "{error:?}");

    let empty = scene.registry.put_blob(Bytes::new());
    assert!(scene.repository.blob(&empty, 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn whole_blob_resumes_even_where_ranges_are_not_supported() {
    let scene = Scene::plain();
    scene.fault(Fault::Truncate(2 << 20), 1);
    scene.registry.faults().add(When::always(), Fault::IgnoreRange);
    assert!(scene.repository.blob(&scene.digest, 4 << 20).await.unwrap() == scene.blob);
    assert_eq!(scene.requests().len(), 2);
}

#[tokio::test]
async fn manifests_survive_faults_and_are_verified() {
    let scene = Scene::plain();
    let raw = br#"{"schemaVersion":2,"manifests":[]}"#.as_slice();
    let digest =
        scene.registry.put_manifest("some/name", Some("v1"), "application/vnd.oci.image.index.v1+json", raw);
    for fault in [Fault::Status(503, None), Fault::Truncate(5)] {
        scene.fault(fault, 2);
        let (bytes, found, media_type) = scene.repository.manifest("v1").await.unwrap();
        assert_eq!((&bytes[..], found), (raw, digest));
        assert_eq!(media_type, "application/vnd.oci.image.index.v1+json");
    }
    scene.fault(Fault::Corrupt, 2);
    for reference in ["v1", &digest.to_string()] {
        let error = scene.repository.manifest(reference).await.unwrap_err();
        assert!(matches!(error, RegistryError::Digest { .. }), "{error:?}");
    }
    for reference in ["", "..", "../blobs/x", "v1?a=b", "v1#x", "v 1"] {
        let error = scene.repository.manifest(reference).await.unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{reference}: {error:?}");
    }
    let error = scene.repository.manifest("v2").await.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error:?}");
    scene.registry.put_manifest("some/name", Some("big"), "application/json", vec![b' '; 9 << 20]);
    let error = scene.repository.manifest("big").await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn errors_show_no_signature() {
    let scene = Scene::redirecting();
    scene.registry.faults().add(When::always().on(Server::Cdn), Fault::Status(403, None));
    let error = read(&scene.fetcher(), 0, 10).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("signature"), "{error:?}");
}
