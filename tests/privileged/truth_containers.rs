//! Recordings of containers that somebody else starts, against a workload that says itself what it needed: every page that
//! the chosen programs can see is in the trace, on containerd's own snapshotter and on ours, from the start and attached.
//!
//! What is not visible is asserted, too: docs/recording.md says it. Needs root, a C compiler, containerd, runc and eBPF.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use harness::access::{joined, write};
use harness::container_lab::{ContainerLab, unique};
use harness::layout;
use harness::machine;
use harness::patience::eventually;
use harness::recording::{PAGE, sealed};
use harness::truth::{Truth, pages};
use soci_core::trace::Access;

/// Ways of reading by calls that say how many bytes they gave, other than `direct`.
const CALLS: [&str; 8] = ["read", "whole", "pread", "readv", "preadv2", "sendfile", "splice", "copy"];
/// All other ways; `plugin` is loaded with dlopen.
const OTHERS: [&str; 13] = [
    "uring", "populate", "shared", "private", "code", "write", "exec", "plugin", "threads", "forks", "ahead",
    "direct", "opened",
];
/// Short processes of the kind `forks`, each of which needs a page of its own.
const FORKS: u64 = 10_000;

/// The layers, the lowest first: built once.
fn layers() -> &'static [PathBuf; 2] {
    static LAYERS: OnceLock<[PathBuf; 2]> = OnceLock::new();
    LAYERS.get_or_init(|| {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(module_path!().replace("::", "-"));
        let _ = fs::remove_dir_all(&dir); // of an earlier run
        let layers = ["low", "high"].map(|name| dir.join(name));
        for (layer, name) in [(0, "bin/access"), (1, "data/exec")] {
            layout::compile("access.c", &layers[layer].join(name));
            fs::set_permissions(layers[layer].join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        layout::compile_with("load.c", &layers[0].join("bin/load"), &["-ldl"]);
        layout::copy_libraries(&layers[0].join("bin/load"), &layers[0]);
        layout::compile_with("plugin.c", &layers[1].join("data/plugin"), &["-shared", "-fPIC"]);
        let content: Vec<u8> = (0..256 * PAGE).map(|at| (at / 7 * 31 % 251) as u8).collect();
        let made = ["exec", "plugin", "forks"];
        let kinds = CALLS.iter().chain(&OTHERS).filter(|kind| !made.contains(kind));
        for (number, kind) in kinds.enumerate() {
            write(&layers[number % 2], &format!("data/{kind}"), &content);
        }
        write(&layers[0], "data/forks", &vec![7; (FORKS * PAGE) as usize]);
        layers
    })
}

/// Whose layers they are.
#[derive(Debug)]
struct Layers {
    snapshotter: &'static str,
    /// Of our snapshotter.
    config: &'static str,
    /// Ways of reading that they do not have.
    absent: &'static [&'static str],
}

/// What a recording of all kinds must show.
fn check(of: &Layers, what: &str, truth: &str, accesses: &[Access], exact: bool) {
    println!("{of:?}, {what}, {}:", if exact { "exact" } else { "pages" });
    let truth = Truth::parse(truth);
    // A kernel may have no io_uring.
    let may_be_absent = |kind: &str| kind == "uring" || of.absent.contains(&kind);
    let said: BTreeSet<&str> = truth.files.values().map(|needed| needed.kind.as_str()).collect();
    for kind in CALLS.iter().chain(&OTHERS) {
        let name = if *kind == "plugin" { "dlopen" } else { kind };
        assert!(said.contains(name) || may_be_absent(kind) || *kind == "opened", "{kind}: {said:?}");
    }
    let recorded = pages(accesses);
    let direct = said.contains("direct").then_some("direct");
    let missing = truth.missing(&recorded);
    if exact {
        assert_eq!(missing, BTreeSet::new(), "{of:?}, {what}");
    } else {
        // Pages alone claim no completeness: a read that meets a readahead in flight has no event for what it got before.
        assert!(direct.is_none_or(|direct| missing.contains(direct)), "{of:?}, {what}: {missing:?}");
        let calls = |kind: &&str| *kind == "direct" || CALLS.contains(kind);
        assert!(missing.iter().all(calls), "{of:?}, {what}: {missing:?}");
    }
    let mapped_beside = ["shared", "private", "code", "exec", "dlopen"];
    for (kind, needless) in truth.needless(&recorded) {
        assert!(needless == 0 || mapped_beside.contains(&kind), "{of:?}, {what}: {kind}, {needless} pages");
    }
    assert!(exact || !recorded.contains_key("data/direct"), "not even a page of it");
    assert_eq!(recorded["data/ahead"].len(), 1, "what was only brought into memory is no need");
    let opened = accesses.iter().filter(|access| &*access.path == b"data/opened");
    assert_eq!(opened.map(|access| access.len).collect::<Vec<_>>(), if exact { vec![0] } else { vec![] });
    let processes: BTreeSet<u32> = accesses
        .iter()
        .filter(|access| &*access.path == b"data/forks" && access.len > 0)
        .map(|access| access.process.pid)
        .collect();
    assert_eq!(processes.len() as u64, FORKS, "each page is the need of its own process");
    if exact {
        let mut bytes: BTreeMap<&[u8], Vec<(u64, u64)>> = BTreeMap::new();
        for access in accesses.iter().filter(|access| access.len > 0) {
            bytes.entry(&access.path).or_default().push((access.offset, access.offset + access.len));
        }
        for kind in CALLS.iter().chain(&["direct"]) {
            let path = format!("data/{kind}");
            let Some(needed) = truth.files.get(&path) else { continue };
            assert_eq!(
                joined(bytes[path.as_bytes()].clone()),
                joined(needed.ranges.clone()),
                "{of:?}, {what}: {kind}"
            );
        }
    }
}

fn recall_is_whole(of: &Layers) {
    let lab = ContainerLab::with(of.snapshotter, layers(), "/bin/access", of.config);
    let kinds: Vec<&str> = CALLS.iter().chain(&OTHERS).copied().collect();
    for exact in [false, true] {
        let engine = if exact { &["--engine", "ebpf", "--exact"][..] } else { &["--reads", "pages"] };

        let id = unique("truth");
        // Again from nothing: a file system that is kept in a file is read by who reads its files, one inside the other.
        machine::drop_caches();
        // In a file of the host: `ctr` of containerd 1.6 may lose the last output of a container that ends.
        let say = format!("SAY=/sync/{id}");
        let recording = lab.record(engine, &lab.run_words(&["--rm", "--env", &say], &id, &kinds));
        assert_eq!(recording.code(), Some(0), "{}\n{}", recording.stderr(), recording.stdout());
        let truth = fs::read_to_string(lab.sync.join(&id)).unwrap();
        let (accesses, end) = recording.trace("t.trace");
        assert_eq!((end.dropped, end.exit_code), (0, Some(0)));
        check(of, "from its start", &truth, &accesses, exact);

        let id = unique("truth");
        let (say, go) = (format!("SAY=/sync/{id}"), format!("/sync/go-{id}"));
        lab.ctr_run(&["-d", "--env", &say], &id, &[&["await", &go], &kinds[..]].concat());
        eventually("it waits", || lab.sync.join(&id).exists());
        let (dir, child) = lab.attach(&id, engine);
        lab.go(&format!("go-{id}"));
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let truth = fs::read_to_string(lab.sync.join(&id)).unwrap();
        let (accesses, end) = sealed(&dir.path().join("t.trace")).unwrap();
        assert_eq!((end.dropped, end.exit_code), (0, Some(0)));
        check(of, "attached", &truth, &accesses, exact);
        lab.remove(&id);
    }
}

#[test]
fn on_containerds_overlayfs_snapshotter() {
    recall_is_whole(&Layers { snapshotter: "overlayfs", config: "", absent: &[] });
}

#[test]
fn on_the_lazy_layers_of_our_snapshotter() {
    // copy_file_range does not cross from them to the overlay's writable layer; an image of a layer has no O_DIRECT.
    recall_is_whole(&Layers { snapshotter: "soci", config: "", absent: &["copy", "direct"] });
}

#[test]
fn on_the_lazy_layers_of_our_snapshotter_over_fuse() {
    recall_is_whole(&Layers { snapshotter: "soci", config: "[fuse]\nerofs = false\n", absent: &["copy"] });
}
