//! How long a Prepare takes whose registry cannot be reached at all. Those that answer badly are in `daemon_care`. Needs root.

use std::time::{Duration, Instant};

use harness::door::Hole;
use harness::pull::labels;
use harness::registry::TestRegistry;
use harness::site::{Image, Site};
use soci_core::containerd::snapshots::PrepareSnapshotRequest;

#[test]
fn a_registry_that_drops_packets_costs_one_time_limit() {
    let (registry, hole) = (TestRegistry::start(), Hole::new());
    let (mut image, _) = Image::new(&registry, "a", &[("f", b"x")], 64 << 10);
    image.published.reference = format!("{}/a:latest", hole.host());
    let site = Site::new("mount_timeout_sec = 2\n");
    let prepare = |number: usize| {
        let target = format!("sha256:{number}");
        let request = PrepareSnapshotRequest {
            snapshotter: "soci".to_owned(),
            key: format!("extract-{number}"),
            parent: String::new(),
            labels: labels(&image.published, 0, &target),
        };
        let begun = Instant::now();
        let answer = site.runtime.block_on(async { site.daemon.client().await.prepare(request).await });
        assert_eq!(answer.unwrap().into_inner().mounts.len(), 1, "the runtime pulls it");
        begun.elapsed()
    };
    let took = [prepare(0), prepare(1)];
    println!("the first layer after {:?}, the second after {:?}", took[0], took[1]);
    assert!(took[0] < Duration::from_secs(3) && took[1] < Duration::from_secs(1), "{took:?}");
}
