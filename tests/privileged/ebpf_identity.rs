//! Which file an event is of: layers on several devices and on FUSE, and why an event is of no file of the image.
//!
//! Needs root, `/dev/fuse` and a kernel with its type information.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::access::{AccessImage, COPIED, complete, write};
use harness::layout;
use harness::loop_disk::LoopDisk;
use harness::recording::{PAGE, Recording};
use harness::truth::{Truth, pages};
use recorder::capture::{Capture, Ebpf, FuseLog, Reads, Settings, Way};
use recorder::rootfs::Overlay;
use recorder::workload::Cgroup;
use soci_core::trace::{AccessKind, Outside};

const PAGES: u64 = 64;

/// What a capture has handed out: bytes by path, and the paths that were executed.
fn drain(capture: &mut Ebpf) -> (BTreeMap<String, u64>, Vec<String>) {
    let (mut bytes, mut executed) = (BTreeMap::new(), Vec::new());
    while let Some(access) = capture.next(Duration::ZERO) {
        let path = String::from_utf8_lossy(&access.path).into_owned();
        match access.kind {
            AccessKind::Exec => executed.push(path),
            _ => *bytes.entry(path).or_default() += access.len,
        }
    }
    (bytes, executed)
}

#[test]
fn layers_on_a_fuse_mount_and_on_another_device_are_told_apart() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let make = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let (backing, plain, served, root) = (make("backing"), make("plain"), make("served"), make("root"));
    let (upper, work) = (make("upper"), make("work"));
    write(&backing, "of-fuse", &vec![7; (PAGES * PAGE) as usize]);
    write(&plain, "of-disk", &vec![8; (PAGES * PAGE) as usize]);
    layout::compile("access.c", &backing.join("access"));
    fs::set_permissions(backing.join("access"), fs::Permissions::from_mode(0o755)).unwrap();
    // The same file twice: only the topmost is shown.
    fs::copy(backing.join("access"), plain.join("access")).unwrap();

    let fuse = FuseLog::mount(&backing, &served).unwrap();
    let layers = [fuse.mountpoint().to_owned(), plain.clone()];
    let devices: Vec<u64> = layers.iter().map(|layer| fs::metadata(layer).unwrap().dev()).collect();
    assert_ne!(devices[0], devices[1]);
    let lower: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
    let overlay = Overlay::writable(&lower, &upper, &work, &root).unwrap();
    let cgroup = Cgroup::new(&make("cgroup")).unwrap();
    for reads in [Reads::Only(Way::Pages), Reads::Exact] {
        let exact = reads == Reads::Exact;
        let settings = Settings { reads, ..Settings::default() };
        let mut capture = Ebpf::attach(&cgroup, &layers, &root, &upper, &settings).unwrap();
        for file in ["of-fuse", "of-disk"] {
            let script = r#"echo 0 > "$1"; exec "$2" flood "$3" "$4""#;
            let mut command = Command::new("sh");
            command.args(["-c", script, "sh"]).arg(cgroup.dir().join("cgroup.procs"));
            command.arg(root.join("access")).arg(root.join(file)).arg(PAGES.to_string());
            assert!(command.status().unwrap().success());
        }
        let (bytes, executed) = drain(&mut capture);
        let expected = if exact { PAGES } else { PAGES * PAGE }; // the program takes one byte of each page
        assert_eq!(bytes.get("of-fuse"), Some(&expected), "exact: {exact}, {bytes:?}");
        assert_eq!(bytes.get("of-disk"), Some(&expected), "exact: {exact}, {bytes:?}");
        assert!(executed.iter().any(|path| path == "access"), "exact: {exact}, {executed:?}");
        let counts = capture.counts().unwrap();
        assert_eq!((counts.dropped, counts.emitted), (0, counts.received));
    }
    drop(overlay);
}

#[test]
fn events_of_other_files_are_counted_by_their_reason() {
    let image =
        AccessImage::new(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(module_path!().replace("::", "-")));
    for flags in [["--reads", "pages"], ["--reads", "exact"]] {
        let recording = image.record(&[&flags[..], &["--json"]].concat(), &["access", "reasons"]);
        let accesses = complete(&recording);
        let Some(outside) = recording.trace("t.trace").1.outside else { panic!("the trace does not know") };
        println!("{flags:?}: {outside:?}");
        let Outside { elsewhere, written, deleted, unknown } = outside;
        assert!(written >= 3 && deleted >= 1, "new, copied up, renamed; deleted: {outside:?}");
        assert_eq!(unknown, 0);
        if flags.contains(&"exact") {
            assert!(elsewhere >= 1, "a tmpfs: {outside:?}");
        }
        let json: serde_json::Value = serde_json::from_str(&recording.stdout()).unwrap();
        assert_eq!(json["end"]["outside"]["written"], written);
        // Copied up to be renamed: that was a read of the image. What was read under the new name is none.
        let has = |path: &str| accesses.iter().any(|access| &*access.path == path.as_bytes());
        assert!(has("data/old-name") && !has("data/new-name") && !has("data/written"));
        let mut report = Command::new(harness::daemon::program("soci"));
        let report = report.arg("report").arg(recording.dir.path().join("t.trace")).output().unwrap();
        let said = String::from_utf8_lossy(&report.stdout).into_owned();
        assert!(said.contains(&format!("{deleted} of deleted files")), "{said}");
    }
}

#[test]
fn a_file_that_is_copied_into_the_writable_layer_is_needed_as_a_whole() {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let image = AccessImage::new(&home.join(format!("{}-copied", module_path!().replace("::", "-"))));
    let xfs = LoopDisk::xfs(home);
    // On the one disk the copy is read; on the other it shares the blocks, and nobody reads them.
    for image in [image.in_state(&xfs.path().join("state")), image] {
        for reads in ["best", "calls", "pages"] {
            let words = [&["access"], &COPIED[..], &["pread"]].concat();
            let recording = image.record(&["--engine", "ebpf", "--reads", reads], &words);
            let truth = Truth::parse(&recording.stdout());
            assert_eq!(truth.files.len(), COPIED.len() + 1);
            let accesses = complete(&recording);
            // By pages, those that are given while a page behind them is still being fetched are missing. What shares
            // its blocks is not read at all.
            let shares = image.state().starts_with(xfs.path());
            let claimed = |kind: &&str| reads != "pages" || shares && COPIED.contains(kind);
            let missing: BTreeSet<_> = truth.missing(&pages(&accesses)).into_iter().filter(claimed).collect();
            assert_eq!(missing, BTreeSet::new(), "{:?}, {reads}", image.state());
            let last =
                |path: &str| accesses.iter().filter(|a| &*a.path == path.as_bytes()).map(|a| a.t_ns).max();
            assert!(last("data/moved") < last("data/pread"), "at the time of the copy");
        }
    }
}

#[test]
fn a_new_file_with_the_number_of_a_removed_one_is_another_file() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    write(dir.path(), "old", &vec![7; PAGE as usize]);
    let script = "cat old && number=$(stat -c %i old) && rm old && for n in $(seq 500); do \
        head -c 20000 /dev/zero >new$n; [ $(stat -c %i new$n) != $number ] || exec cat new$n; done; exit 9";
    let recording = Recording::of(|out| {
        let mut command = Command::new(harness::daemon::program("soci"));
        command.args(["record", "--name", "t", "--out"]).arg(out).arg("--rootfs").arg(dir.path());
        command.arg("--cwd").arg(dir.path()).args(["--", "sh", "-c", script]);
        command
    });
    let accesses = complete(&recording); // fails also where no number is given anew
    let of_old = accesses.iter().filter(|access| &*access.path == b"old");
    assert_eq!(of_old.map(|access| access.len).sum::<u64>(), PAGE, "{accesses:?}");
}
