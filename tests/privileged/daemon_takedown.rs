//! `soci-snapshotter-grpc unmount` takes nothing away under a container: whoever uses a layer is found, by whatever name it has
//! mounted it, in whatever namespace. Needs root, /dev/fuse and overlayfs.

use std::any::Any;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::process::Signal;

use crate::snapshotter::{Lab, layers};

/// Both ways of mounting, by configuration.
const WAYS: [&str; 2] = ["", "[fuse]\nerofs = false\n"];

/// A mount that goes with its drop.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

/// A process in a mount namespace of its own, which hears of no change of ours, after it has run a script.
struct Elsewhere(Child);

impl Elsewhere {
    fn new(script: &str, directory: &Path, words: &[&Path]) -> Self {
        let script = format!("{script}\n echo here; read end");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", &script, "sh"]).args(words);
        let mut child =
            command.current_dir(directory).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "here\n");
        Self(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn who_uses_a_layer_by_another_name_is_found() {
    for way in WAYS {
        let mut lab = Lab::new(&layers(), way, |_| {});
        lab.pull();
        let work = tempfile::tempdir().unwrap();
        let target = |name: &str| {
            let path = work.path().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let mounted = lab.daemon.mounts();
        let snapshots = lab.daemon.root().join("snapshotter/snapshots");
        let relative: Vec<_> = mounted
            .iter()
            .map(|layer| layer.strip_prefix(&snapshots).unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(relative.len(), 3);
        let lower = format!("lowerdir={}", relative.join(":"));
        let mount = |options: &str, on: PathBuf| {
            let mut mount = Command::new("mount");
            mount.args(["-t", "overlay", "overlay", "-o", options]).arg(&on).current_dir(&snapshots);
            assert!(mount.status().unwrap().success());
            Mount(on)
        };

        // In other namespaces, which copy all that is mounted before.
        let copy = Elsewhere::new("", work.path(), &[]);
        let (over_elsewhere, bound_elsewhere) = (target("over-elsewhere"), target("bound-elsewhere"));
        let script = format!("mount -t overlay overlay -o {lower} \"$1\"");
        let first = Elsewhere::new(&script, &snapshots, &[&over_elsewhere]);
        let second =
            Elsewhere::new("mount --bind \"$1\" \"$2\"", work.path(), &[&mounted[0], &bound_elsewhere]);
        // As containerd mounts many layers: from the directory that they have in common.
        let relative = mount(&lower, target("relative"));
        // A view of one layer, and an overlay of that, which names no directory of ours.
        let bound = Mount(target("bound"));
        mount_bind(&mounted[0], &bound.0).unwrap();
        let over =
            mount(&format!("lowerdir={}:{}", bound.0.display(), work.path().display()), target("over"));

        lab.daemon.stop(Signal::TERM);
        let (relative_at, bound_at, over_at) = (relative.0.clone(), bound.0.clone(), over.0.clone());
        let users: [(&Path, Box<dyn Any>); 5] = [
            (&over_at, Box::new(over)),
            (&bound_at, Box::new(bound)),
            (&relative_at, Box::new(relative)),
            (&bound_elsewhere, Box::new(second)),
            (&over_elsewhere, Box::new(first)),
        ];
        let mut left = users.len();
        for (point, user) in users {
            let said = lab.daemon.unmount(&[]).unwrap_err();
            assert!(
                said.contains(&format!("{left} mounts use layers")) && said.contains("--force"),
                "{said}"
            );
            assert!(said.contains(point.to_str().unwrap()), "{said}");
            assert_eq!(lab.daemon.mounts().len(), 3);
            drop(user);
            left -= 1;
        }
        // A copy of our mounts is no use of them.
        let said = lab.daemon.unmount(&[]).unwrap();
        assert!(said.starts_with("4 mounts taken down"), "{said}");
        drop(copy);
    }
}
