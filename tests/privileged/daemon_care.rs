//! What a daemon that is left running does to its machine: what others may see of it, what it holds, what it waits for at its
//! end, and whether it is well again after the disk was full. Needs root, /dev/fuse and overlayfs.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::faults::{Fault, When};
use harness::patience::eventually;
use harness::pull::{By, chain_ids, labels, prepare_container};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use snapshotter::snapshot::{Error, Kind, Labels, Lasts, Metadata};
use soci_core::containerd::snapshots::{PrepareSnapshotRequest, RemoveSnapshotRequest, UsageRequest};
use soci_core::digest::Digest;

use crate::snapshotter::{Lab, layers};

/// What containerd gives a request before it takes the daemon for dead, shortened.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn nobody_else_may_look_at_what_is_cached() {
    let lab = Lab::new(&layers(), "", |sources| sources[1].unindexed = true);
    lab.pull();
    for part in ["", "cache", "content", "snapshotter", "unpack"] {
        let path = lab.daemon.root().join(part);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700, "{}", path.display());
    }
    assert_eq!(fs::metadata(lab.daemon.socket()).unwrap().mode() & 0o777, 0o660);
}

#[test]
fn as_many_descriptors_are_allowed_as_can_be() {
    let lab = Lab::new(&layers(), "", |_| {});
    let limits = fs::read_to_string(format!("/proc/{}/limits", lab.daemon.pid())).unwrap();
    let files: Vec<_> =
        limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(files[3], files[4], "{limits}");
}

#[test]
fn pods_with_a_user_namespace_get_their_mounts() {
    let lab = Lab::new(&layers(), "", |_| {});
    let (_, top) = lab.pull();
    let labels =
        ["uid", "gid"].map(|id| (format!("containerd.io/snapshot/{id}mapping"), "0:100000:65536".to_owned()));
    let request = PrepareSnapshotRequest {
        snapshotter: "soci".to_owned(),
        key: "pod".to_owned(),
        parent: top,
        labels: HashMap::from(labels),
    };
    let answer = lab.runtime.block_on(lab.client().prepare(request)).unwrap();
    assert_eq!(answer.into_inner().mounts.len(), 1);
}

/// Files below a directory, and the bytes that they take.
fn on_disk(root: &Path) -> (usize, u64) {
    let mut sum = (0, 0);
    for entry in fs::read_dir(root).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            let (files, bytes) = on_disk(&entry.path());
            sum = (sum.0 + files, sum.1 + bytes);
        } else {
            sum = (sum.0 + 1, sum.1 + metadata.blocks() * 512);
        }
    }
    sum
}

#[test]
fn what_removed_images_took_is_given_back() {
    let lab = Lab::new(&layers(), "[storage]\nkeep_unused_sec = 1\n", |_| {});
    let (_, top) = lab.pull();
    lab.assert_served(&lab.container("a", &top));
    let (cache, content) = (lab.daemon.root().join("cache"), lab.daemon.root().join("content/blobs"));
    let before = (on_disk(&cache), on_disk(&content));
    assert!(before.0.1 > 1 << 20 && before.1.0 >= 5, "{before:?}");
    let remove = |key: &str| {
        let request = RemoveSnapshotRequest { snapshotter: String::new(), key: key.to_owned() };
        lab.runtime.block_on(lab.client().remove(request)).unwrap();
    };
    remove("a");
    remove(&top);
    let chain = chain_ids(&lab.diff_ids);
    // The layers that are left are served, and nothing of them is fetched anew.
    lab.registry.forget_requests();
    drop(lab.container("b", &chain[1]));
    assert_eq!(lab.registry.requests().len(), 0);
    for key in ["b", &chain[1], &chain[0]] {
        remove(key);
    }
    eventually("everything is gone", || on_disk(&cache).0 == 0 && on_disk(&content).0 == 0);
    let (by, top) = lab.pull();
    assert_eq!(by, [By::Snapshotter; 3]);
    lab.assert_served(&lab.container("c", &top));
}

#[test]
fn a_registry_that_does_not_answer_costs_one_time_limit() {
    // The first never answers; the second never ends its refusals.
    for fault in [Fault::Hang, Fault::Status(401, None)] {
        let lab = Lab::new(&layers(), "mount_timeout_sec = 2\n", |_| {});
        lab.registry.faults().add(When::path("/v2/"), fault.clone());
        let mut client = lab.client();
        let chain = chain_ids(&lab.diff_ids);
        let mut took = Vec::new();
        for (at, target) in chain.iter().enumerate().take(2) {
            let request = PrepareSnapshotRequest {
                snapshotter: "soci".to_owned(),
                key: format!("extract-{at}"),
                parent: String::new(),
                labels: labels(&lab.image, at, target),
            };
            let begun = Instant::now();
            let answer = lab.runtime.block_on(client.prepare(request));
            took.push(begun.elapsed());
            assert_eq!(answer.unwrap().into_inner().mounts.len(), 1, "the runtime pulls it");
        }
        assert!(took[0] < Duration::from_secs(3) && took[1] < Duration::from_secs(1), "{fault:?}: {took:?}");
        // Nor does another image of a registry that has said nothing at all.
        let mut other = lab.image.clone();
        other.reference = lab.registry.image("other");
        other.manifest = Digest::of(b"other");
        let request = PrepareSnapshotRequest {
            snapshotter: "soci".to_owned(),
            key: "other".to_owned(),
            parent: String::new(),
            labels: labels(&other, 0, "sha256:other"),
        };
        let begun = Instant::now();
        lab.runtime.block_on(client.prepare(request)).unwrap();
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(if matches!(fault, Fault::Hang) { 1 } else { 3 }),
            "{fault:?}: {took:?}"
        );
    }
}

#[test]
fn two_containers_on_a_layer_that_was_unavailable_get_one_mount() {
    const KEEP_NOTHING: &str = "[restart]\nkeep_mounts = false\n";
    let mut lab = Lab::new(&layers(), KEEP_NOTHING, |_| {});
    let (_, top) = lab.pull();
    lab.daemon.kill();
    for kept in ["content", "cache"] {
        fs::remove_dir_all(lab.daemon.root().join(kept)).unwrap();
    }
    lab.registry.faults().add(When::path("/v2/"), Fault::Status(404, None));
    lab.daemon.restart(KEEP_NOTHING);
    assert_eq!(lab.daemon.mounts().len(), 0);
    lab.registry.faults().clear();
    let (mut one, mut other) = (lab.client(), lab.client());
    let both = async {
        // What was not found is looked for again after a while.
        let until = Instant::now() + Duration::from_secs(40);
        loop {
            let answers = tokio::join!(
                prepare_container(&mut one, "a", &top),
                prepare_container(&mut other, "b", &top)
            );
            match answers {
                (Ok(a), Ok(b)) => return (a, b),
                other => assert!(Instant::now() < until, "{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let (a, b) = lab.runtime.block_on(both);
    let mut points = lab.daemon.mounts();
    points.sort();
    points.dedup();
    assert_eq!((points.len(), lab.daemon.mounts().len()), (3, 3), "{:?}", lab.daemon.mounts());
    for (name, mounts) in [("a", a), ("b", b)] {
        lab.assert_served(&lab.mounted(name, &mounts));
    }
}

#[test]
fn a_lazy_layer_that_cannot_be_served_any_more_is_pulled_whole_for_the_next_container() {
    // Its index is gone, here and at the registry; it is mounted, or not any more.
    for mounted in [false, true] {
        let keep = format!("[restart]\nkeep_mounts = {mounted}\nabort_after_sec = 5\n");
        let mut lab = Lab::new(&layers(), &keep, |_| {});
        let (_, top) = lab.pull();
        lab.daemon.kill();
        for kept in ["content", "cache"] {
            fs::remove_dir_all(lab.daemon.root().join(kept)).unwrap();
        }
        lab.registry.faults().add(When::path(lab.image.index.to_string()), Fault::Status(404, None));
        lab.daemon.restart(&keep);
        assert_eq!(lab.daemon.mounts().len(), if mounted { 3 } else { 0 });
        let mut mounts = None;
        // What is mounted is given up after a time.
        eventually("a container can be made", || {
            mounts = lab.runtime.block_on(prepare_container(&mut lab.client(), "after", &top)).ok();
            mounts.is_some()
        });
        lab.assert_served(&lab.mounted("after", &mounts.unwrap()));
        assert_eq!(lab.daemon.metric("soci_layers_total{way=\"whole\"}"), 3);
        assert_eq!(lab.daemon.mounts().len(), 0);
        // It stays so, and its disk is the snapshot's.
        lab.daemon.kill();
        lab.daemon.restart(&keep);
        lab.assert_served(&lab.container("again", &top));
        let request = UsageRequest { snapshotter: String::new(), key: chain_ids(&lab.diff_ids)[0].clone() };
        let usage = lab.runtime.block_on(lab.client().usage(request)).unwrap().into_inner();
        assert!(usage.size > 2_000_000 && usage.inodes > 10, "{usage:?}");
    }
}

/// A process with a copy of all mounts, in a namespace that hears of no change.
struct Copy(Child);

impl Copy {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", "echo here; read end"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "here\n");
        Self(child)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn neither_an_end_nor_a_removal_waits_for_who_uses_a_layer() {
    let mut lab = Lab::new(&layers(), "", |_| {});
    let (_, top) = lab.pull();
    let chain = chain_ids(&lab.diff_ids);
    let elsewhere = Copy::new();
    let begun = Instant::now();
    let request = RemoveSnapshotRequest { snapshotter: String::new(), key: top };
    let mut client = lab.client();
    let removal = async { tokio::time::timeout(SOON, client.remove(request)).await };
    lab.runtime.block_on(removal).expect("it is answered").unwrap();
    let removed = begun.elapsed();
    let container = lab.container("a", &chain[1]);
    let begun = Instant::now();
    assert_eq!(lab.daemon.stop(Signal::TERM).code(), Some(0));
    let stopped = begun.elapsed();
    assert!(removed < SOON && stopped < SOON, "removed after {removed:?}, stopped after {stopped:?}");
    drop(container);
    drop(elsewhere);
    lab.daemon.restart("");
    assert_eq!(lab.daemon.mounts().len(), 2);
}

#[test]
fn a_database_that_met_a_full_disk_is_used_again_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    mount("tmpfs", &disk, "tmpfs", MountFlags::empty(), c"size=3m").unwrap();
    let metadata = Metadata::open(&disk.join("metadata.redb")).unwrap();
    let make = |key: &str| {
        let labels = Labels::from([("large".to_owned(), "x".repeat(100_000))]);
        metadata.create(Kind::Active, key, None, labels, Lasts::Now, |_| Ok(()))
    };
    make("before").unwrap();
    let mut filler = File::create(disk.join("filler")).unwrap();
    while filler.write(&[0; 4096]).is_ok() {}
    let mut made = vec!["before".to_owned()];
    let refused = (0..100).find_map(|number| match make(&number.to_string()) {
        Ok(_) => {
            made.push(number.to_string());
            None
        }
        Err(error) => Some(error),
    });
    assert!(matches!(refused, Some(Error::Database(_))), "{refused:?}");
    assert!(make("still full").is_err());
    drop(filler);
    fs::remove_file(disk.join("filler")).unwrap();
    make("after").unwrap();
    made.push("after".to_owned());
    for key in &made {
        metadata.stat(key).unwrap();
    }
    assert_eq!(metadata.list(&[]).unwrap().len(), made.len());
    drop(metadata);
    unmount(&disk, UnmountFlags::empty()).unwrap();
}
