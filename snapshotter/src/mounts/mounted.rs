//! One mount of a layer, and what the mount table says of those that an earlier process has made.
//!
//! A [`Mounted`] owns nothing that its drop would end: a mount outlives the process. [`super::Mounts::unmount`] ends it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::kernel::Kernel;
use crate::hidden::Slot;
use crate::mountinfo::Line;

/// A layer that is mounted.
#[derive(Debug)]
#[must_use = "a mount that nobody remembers is not unmounted"]
pub struct Mounted {
    pub(super) mountpoint: PathBuf,
    pub(super) name: String,
    pub(super) slot: Slot,
    pub(super) kernel: Arc<Kernel>,
}

impl Mounted {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The kernel's side.
    pub(crate) const fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }
}

/// What is mounted below a directory: for each mountpoint the names of our layers, if that is what it shows. `hidden`: where the
/// hidden file system is mounted. It touches no file system but /proc.
pub(super) fn below(directory: &Path, hidden: &Path) -> io::Result<HashMap<PathBuf, Option<String>>> {
    let table = fs::read("/proc/self/mountinfo")?;
    let lines = Line::all(&table).into_iter();
    let inside = lines.filter(|line| line.mountpoint.starts_with(directory) && line.mountpoint != directory);
    // The last one on a directory is what it shows.
    Ok(inside
        .map(|line| {
            let name = name(&line, hidden);
            (line.mountpoint, name)
        })
        .collect())
}

/// Of a mount of our layers: the name that the layer has on the hidden mount.
pub(crate) fn name(line: &Line<'_>, hidden: &Path) -> Option<String> {
    let name = match line.kind {
        b"erofs" => line.source.strip_prefix(hidden).ok(),
        b"fuse.soci" => line.root.strip_prefix("/").ok(),
        _ => None,
    };
    let name = name.and_then(Path::to_str).filter(|name| !name.is_empty() && !name.contains('/'));
    name.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_layers_are_known_in_the_mount_table() {
        let hidden = Path::new("/r/hid den");
        let of = |line: &str| {
            let line = Line::parse(line.as_bytes())?;
            Some((line.mountpoint.display().to_string(), name(&line, hidden)))
        };
        for (line, expected) in [
            (r"40 22 0:40 / /r/7/fs ro,noatime - erofs /r/hid\040den/i1234 ro", Some("i1234")),
            (r"40 22 0:31 /t1234 /r/7/fs ro shared:5 - fuse.soci soci ro,user_id=0", Some("t1234")),
            (r"40 22 0:31 /t1234/usr /r/7/fs ro - fuse.soci soci ro", None),
            (r"40 22 0:31 / /r/7/fs ro - fuse.soci soci ro", None),
            (r"40 22 0:40 / /r/7/fs ro - erofs /other/i1234 ro", None),
            (r"40 22 8:1 /x /r/7/fs rw master:1 - ext4 /dev/sda1 rw", None),
        ] {
            assert_eq!(of(line), Some(("/r/7/fs".to_owned(), expected.map(str::to_owned))), "{line}");
        }
        assert_eq!(of(""), None);
    }
}
