//! The machine goes down: what the daemon of the next boot makes of what it finds. Another boot is what `boot_id` says, which is
//! another file for that daemon. Needs root and overlayfs.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use harness::daemon::program;
use harness::patience::eventually;

use crate::snapshotter::{Lab, WHOLE, layers};

/// A daemon that runs in the boot of this number.
fn in_boot(directory: &Path, number: u32) -> PathBuf {
    let id = directory.join(format!("boot-{number}"));
    fs::write(&id, format!("{number:08x}-0000-4000-8000-000000000000\n")).unwrap();
    let script = directory.join(format!("daemon-{number}"));
    let inner = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
    let daemon = program("soci-snapshotter-grpc");
    let text = format!(
        "#!/bin/sh\nexec unshare --mount sh -c '{inner}' {} {} \"$@\"\n",
        id.display(),
        daemon.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// What a file system may leave of files that nobody has synced. Gives how many there were.
fn empty_files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let emptied = entries.map(|entry| {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            return empty_files(&entry.path());
        }
        if kind.is_file() {
            File::options().write(true).truncate(true).open(entry.path()).unwrap();
        }
        usize::from(kind.is_file())
    });
    emptied.sum()
}

#[test]
fn whole_layers_that_were_not_on_the_disk_are_pulled_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = format!("{WHOLE}\n[restart]\nkeep_mounts = false\n");
    let mut lab = Lab::new(&layers(), &config, |_| {});
    let (_, top) = lab.pull();
    lab.daemon.kill();
    let snapshots = lab.daemon.root().join("snapshotter/snapshots");
    assert!(empty_files(&snapshots) > 10);
    // The lowest one's directory was not on the disk either.
    let lowest = fs::read_dir(&snapshots).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    fs::remove_dir_all(lowest).unwrap();

    lab.daemon.use_program(in_boot(dir.path(), 1));
    lab.daemon.restart(&config);
    lab.assert_served(&lab.container("next boot", &top));
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"whole\"}"), 3);
    lab.assert_served(&lab.container("another one", &top));
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"whole\"}"), 3, "once is enough");

    // What has got to the disk is not pulled again.
    eventually("they are synced", || lab.daemon.log().contains("whole layers are on the disk"));
    lab.daemon.kill();
    lab.daemon.use_program(in_boot(dir.path(), 2));
    lab.daemon.restart(&config);
    lab.assert_served(&lab.container("last boot", &top));
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"whole\"}"), 0);
}

#[test]
fn whole_layers_are_synced_by_the_next_daemon_of_the_same_boot() {
    let mut lab = Lab::new(&layers(), WHOLE, |_| {});
    let (_, top) = lab.pull();
    lab.daemon.kill();
    assert!(!lab.daemon.log().contains("whole layers are on the disk"));
    lab.daemon.restart(WHOLE);
    lab.assert_served(&lab.container("same boot", &top));
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"whole\"}"), 0);
    eventually("they are synced", || lab.daemon.log().contains("whole layers are on the disk"));
}
