//! A thread that has processes check all files of a container from mount namespaces of their own, which hear of no change of
//! ours: each has a copy of the container's mounts, of the layers and of the hidden one, for as long as it runs.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::chmod;
use soci_core::digest::Digest;

use crate::readers::Seen;
use crate::world::Container;

/// Where the list of digests is in the container; the directory is of its own writable layer.
const SUMS: &str = "sums";
const PAUSE: Duration = Duration::from_millis(300);

/// Starts it.
pub(crate) fn elsewhere(container: Arc<Container>, seen: Arc<Seen>) -> JoinHandle<()> {
    let mut sums = String::new();
    for (path, content) in &container.image.files {
        let _ = writeln!(sums, "{}  /{path}", Digest::of(content).hex()); // a String takes everything
    }
    fs::write(container.rootfs.join(SUMS), sums).expect("a container can be written to");
    chmod(container.rootfs.join(SUMS), 0o644.into()).expect("it is ours");
    thread::spawn(move || {
        while !seen.is_over() {
            let mut inside = Command::new("unshare");
            inside.args(["--mount", "--propagation", "private", "chroot"]).arg(&container.rootfs);
            let output = inside.args(["/bin/busybox", "sha256sum", "-c", SUMS]).output();
            match output {
                Ok(output) if output.status.success() => {
                    seen.real.elsewhere.fetch_add(1, Ordering::Relaxed);
                }
                other => seen.wrong(format!("in another namespace: {other:?}")),
            }
            thread::sleep(PAUSE);
        }
    })
}
