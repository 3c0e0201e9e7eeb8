//! The names of a pack's files, looked up in one mount: each once, and each directory listed once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::mounts::kernel::Kernel;

/// What was looked up in a mount.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Whether a directory is there.
    directories: HashMap<Box<[u8]>, bool>,
    files: HashSet<Arc<[u8]>>,
}

impl Names {
    /// Makes the kernel know what an overlay will look up when the file of this path is opened: its directory in all layers; the
    /// file, if it `may_be` here, as it may in its own layer and in those above.
    pub(crate) fn know(&mut self, path: &Arc<[u8]>, may_be: bool, kernel: &Kernel) {
        if self.files.insert(Arc::clone(path)) && self.directory(parent(path), kernel) && may_be {
            kernel.look_up(path);
        }
    }

    /// Whether a directory is there. When it is, the kernel gets all its names: most of those that are needed, though nothing
    /// is read of some; and what lists it finds the list.
    fn directory(&mut self, path: &[u8], kernel: &Kernel) -> bool {
        if let Some(is_there) = self.directories.get(path) {
            return *is_there;
        }
        let is_there = path.is_empty() || self.directory(parent(path), kernel) && kernel.look_up(path);
        if is_there {
            kernel.list(path);
        }
        self.directories.insert(path.into(), is_there);
        is_there
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |slash| &path[..slash])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_end_at_the_root() {
        for (path, above) in [("a/b/c", "a/b"), ("a/b", "a"), ("a", ""), ("", "")] {
            assert_eq!(parent(path.as_bytes()), above.as_bytes());
        }
    }
}
