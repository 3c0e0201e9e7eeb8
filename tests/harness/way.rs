//! The two ways in which a layer is mounted, for tests that hold for both.

use std::fs;
use std::path::Path;

use snapshotter::node::NodeOptions;

/// How layers are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// FUSE answers all.
    Fuse,
    /// The kernel has an EROFS image of the layer, and asks FUSE for content only.
    Image,
}

impl Way {
    /// Asks a node for it.
    pub fn ask(self, options: &mut NodeOptions) {
        options.mounts.fuse.erofs = self == Self::Image;
    }

    /// Checks that a layer is mounted in this way: on a kernel before 6.12, which mounts no images from files, by FUSE.
    ///
    /// # Panics
    ///
    /// When it is not.
    #[track_caller]
    pub fn check(self, mountpoint: &Path) {
        let image = self == Self::Image && kernel() >= (6, 12);
        assert_eq!(kind(mountpoint).as_deref(), Some(if image { "erofs" } else { "fuse.soci" }));
    }
}

/// Version of the running kernel.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// The type of the file system that is mounted there last.
pub fn kind(mountpoint: &Path) -> Option<String> {
    let mountpoint = fs::canonicalize(mountpoint).unwrap();
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut mine = mounts.filter(|fields| Path::new(fields[1]) == mountpoint);
    mine.next_back().map(|fields| fields[2].to_owned())
}

/// Makes two tests of each function that takes a [`Way`].
#[macro_export]
macro_rules! both_ways {
    ($($name:ident),* $(,)?) => {
        mod by_fuse {
            $(#[test] fn $name() { super::$name($crate::way::Way::Fuse) })*
        }
        mod by_image {
            $(#[test] fn $name() { super::$name($crate::way::Way::Image) })*
        }
    };
}
