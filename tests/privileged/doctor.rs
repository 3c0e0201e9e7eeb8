//! `soci doctor` on this machine: with the services of a node, without them, and with a registry that lacks something.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use harness::containerd::Containerd;
use harness::daemon::Daemon;
use harness::faults::{Fault, When};
use harness::image::{LayerSource, TarWriter, publish};
use harness::machine::mounts_mentioning;
use harness::node::{TestMount, TestNode};
use harness::registry::{AuthMode, Habits, TestRegistry};
use harness::soci::{Outcome, Soci};
use serde_json::Value;
use snapshotter::layer::MountOptions;

/// State and text of a finding.
fn finding(outcome: &Outcome, check: &str) -> (String, String) {
    let all: Vec<Value> =
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
    let one =
        all.iter().find(|one| one["check"] == check).unwrap_or_else(|| panic!("no {check}: {outcome:?}"));
    let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("found") + " " + &text("advice"))
}

/// Whether a layer is mounted as an image here.
fn daemon_mounts_images() -> bool {
    let registry = TestRegistry::start();
    let tar = TarWriter::default().file("a", b"content").finish();
    let image = publish(&registry, "doctor", &[LayerSource::of_tar(&tar)], 64 << 10);
    let root = tempfile::tempdir().unwrap();
    let node = TestNode::new(root.path(), |_| {});
    let mountpoint = root.path().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let _mounted = TestMount::new(&node.layer(&image, 0), &mountpoint, &MountOptions::default()).unwrap();
    node.stats.erofs_mounts.get() == 1
}

/// Whether this kernel has the page cache's tracepoints (Linux 6.12): then eBPF must be usable.
fn kernel_has_the_tracepoints() -> bool {
    let types = fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default();
    let name = b"btf_trace_mm_filemap_get_pages\0";
    types.windows(name.len()).any(|window| window == name)
}

#[test]
fn a_whole_node_is_well_and_says_what_is_missing_when_it_is_not() {
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name).display().to_string();
    let config = path("config.toml");
    fs::write(&config, "[cache]\nmax_bytes = 1000000\n").unwrap();
    let daemon = Daemon::start(work.path(), "");
    let containerd = Containerd::start(work.path(), &daemon);
    let socket = daemon.socket().display().to_string();
    let soci = Soci::new();
    let address = path("containerd.sock");
    let of_containerd = path("containerd.toml");
    let doctor = |config: &str| {
        let of_services = ["--address", &address, "doctor", "--json", "--snapshotter", &socket];
        let words = [&of_services[..], &["--config", config, "--containerd-config", &of_containerd]].concat();
        soci.run(words)
    };
    let well = doctor(&config);
    assert_eq!(well.code, 0, "{well:?}");
    for check in ["user", "fuse", "overlayfs", "config", "snapshotter", "containerd", "lazy pulls"] {
        assert_eq!(finding(&well, check).0, "ok", "{check}: {well:?}");
    }
    let (state, text) = finding(&well, "ebpf");
    if kernel_has_the_tracepoints() {
        assert_eq!(state, "ok", "{text}");
    } else {
        assert!(state == "warning" && text.contains("Linux 6.12"), "{text}");
    }
    // Said as it is: the daemon has the last word about it.
    let images = daemon_mounts_images();
    assert_eq!(finding(&well, "erofs").0, if images { "ok" } else { "warning" }, "{well:?}");
    assert_eq!(mounts_mentioning("/merged").len(), 0, "what was tried is gone");

    // containerd would send no labels.
    let text = fs::read_to_string(&of_containerd).unwrap();
    let key = "disable_snapshot_annotations = ";
    fs::write(&of_containerd, text.replace(&format!("{key}false"), &format!("{key}true"))).unwrap();
    let silent = doctor(&config);
    let (state, found) = finding(&silent, "lazy pulls");
    assert!(silent.code == 1 && state == "failed" && found.contains(&format!("{key}false")), "{found}");
    fs::write(&of_containerd, text).unwrap();

    fs::write(&config, "[cache]\nmax_bytes = true\n").unwrap();
    let broken = doctor(&config);
    assert_eq!(broken.code, 1);
    let (state, text) = finding(&broken, "config");
    assert!(state == "failed" && text.contains("config.toml"), "{text}");

    drop(containerd);
    drop(daemon);
    let alone = doctor("/nowhere/config.toml");
    assert_eq!(alone.code, 0, "{alone:?}");
    for check in ["snapshotter", "containerd"] {
        let (state, text) = finding(&alone, check);
        assert!(state == "warning" && text.contains(".sock"), "{text}");
    }
}

#[test]
fn a_registry_is_examined_as_the_snapshotter_will_need_it() {
    let registry = TestRegistry::start();
    let tar = TarWriter::default().file("a", b"content").finish();
    let image = publish(&registry, "app", &[LayerSource::of_tar(&tar)], 64 << 10);
    let soci = Soci::new();
    let well = soci.run(["doctor", "--json", &image.reference]);
    for check in ["registry", "ranges"] {
        assert_eq!(finding(&well, check).0, "ok", "{check}: {well:?}");
    }
    registry.faults().add(When::path(image.layers[0].to_string()), Fault::Status(403, None));
    let forbidden = soci.run(["doctor", "--json", &image.reference]);
    assert_eq!((forbidden.code, finding(&forbidden, "ranges").0.as_str()), (1, "failed"));

    let closed = TestRegistry::with(Habits { auth: AuthMode::Basic, ..Habits::default() });
    let refused = soci.run(["doctor", &format!("{}/app", closed.host())]);
    assert_eq!(refused.code, 1);
    let advice = refused.stdout.lines().find(|line| line.contains("->") && line.contains("log in"));
    assert!(refused.stdout.contains("FAIL  registry") && advice.is_some(), "{}", refused.stdout);
}

#[test]
fn nothing_is_left_in_the_kernels_log() {
    let log = || {
        let output = Command::new("dmesg").output().expect("util-linux is installed");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let before = log();
    let outcome = Soci::new().run(["doctor"]);
    let new: Vec<String> = log().difference(&before).filter(|line| line.contains("erofs")).cloned().collect();
    assert_eq!((outcome.code, new), (0, Vec::new()));
}
