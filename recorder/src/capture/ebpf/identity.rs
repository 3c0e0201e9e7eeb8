//! Which file of the image an inode is.
//!
//! Owns a table from (device, inode) of every regular file of the layer directories to its names. The page cache of an
//! overlay's file belongs to the file of the layer below, so an event names that one. The layers must not change while
//! the table is used; an inode that is not in it is not the image's.
//!
//! The table is made to be small: 24 bytes and the name for each name, sorted, and no allocation of its own for any.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, major, minor, openat, openat2, statfs};

use super::EbpfError;
use crate::resolve::{Origin, Resolver};
use crate::rootfs::each_file;

/// File systems whose files do not have the device number that their page cache has.
const STACKED: [(i64, &str); 2] = [(0x9123_683e, "btrfs"), (0x794c_7630, "overlayfs")];

/// File systems that keep the generation of an inode for as long as there is the file: ext4, XFS. Others may make one up
/// each time they read the inode.
const GENERATIONS: [i64; 2] = [0xef53, 0x5846_5342];

/// Layer of a name under which the merged view shows something else.
const HIDDEN: u32 = u32::MAX;

/// An inode as the kernel names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Inode {
    pub(super) dev: u32,
    pub(super) ino: u64,
}

/// One name of a file.
#[derive(Debug, Clone, Copy)]
struct Entry {
    ino: u64,
    dev: u32,
    /// Its layer, counted from the topmost.
    layer: u32,
    /// Where its name begins.
    name: usize,
}

/// The table.
#[derive(Debug)]
pub(super) struct Identity {
    /// Sorted by inode, then by name.
    entries: Vec<Entry>,
    /// Names, each with a zero behind it.
    names: Vec<u8>,
    /// The devices that the layers are on.
    devices: Vec<u32>,
    /// Those of them that tell the generation of an inode.
    generations: Vec<u32>,
}

impl Identity {
    /// Reads the layer directories, the topmost first. `rootfs` is the overlay of them that the workload will use.
    pub(super) fn of(layers: &[PathBuf], rootfs: &Path) -> Result<Self, EbpfError> {
        let mut this =
            Self { entries: Vec::new(), names: Vec::new(), devices: Vec::new(), generations: Vec::new() };
        for (number, layer) in layers.iter().enumerate() {
            let kind = statfs(layer).map_err(|errno| EbpfError::layer(layer)(errno.into()))?.f_type;
            if let Some((_, name)) = STACKED.iter().find(|(magic, _)| *magic == kind as i64) {
                return Err(EbpfError::FileSystem { path: layer.clone(), name });
            }
            if GENERATIONS.contains(&(kind as i64)) {
                this.generations.push(inode(&fs::metadata(layer).map_err(EbpfError::layer(layer))?).dev);
            }
            each_file(layer, &mut |path, metadata| {
                let Inode { dev, ino } = inode(metadata);
                this.entries.push(Entry { ino, dev, layer: number as u32, name: this.names.len() });
                this.names.extend(path.strip_prefix(layer).unwrap_or(path).as_os_str().as_bytes());
                this.names.push(0);
                Ok(())
            })
            .map_err(|(path, source)| EbpfError::Layer { path, source })?;
        }
        let names = &this.names;
        this.entries.sort_unstable_by_key(|entry| (entry.inode(), name_at(names, entry.name)));
        this.devices = this.entries.iter().map(|entry| entry.dev).collect();
        this.devices.dedup();
        this.show(layers, rootfs)?;
        this.entries.shrink_to_fit();
        this.names.shrink_to_fit();
        Ok(this)
    }

    /// Of each file with several names, keeps those that the merged view shows, where there are any: another one may be
    /// hidden by a layer above.
    fn show(&mut self, layers: &[PathBuf], rootfs: &Path) -> Result<(), EbpfError> {
        let bottom_first: Vec<PathBuf> = layers.iter().rev().cloned().collect();
        let mut resolver = Resolver::new(&bottom_first).map_err(EbpfError::layer(rootfs))?;
        let names = &self.names;
        for same in self.entries.chunk_by_mut(|a, b| a.inode() == b.inode()).filter(|same| same.len() > 1) {
            let shown = |entry: &Entry| {
                let name = name_at(names, entry.name);
                let layer = layers.len() as u32 - 1 - entry.layer;
                is_file(rootfs, name) && resolver.origin(&Arc::from(name)) == Some(Origin::Layer(layer))
            };
            let is_shown: Vec<bool> = same.iter().map(shown).collect();
            let hides = is_shown.contains(&true);
            for (entry, shown) in same.iter_mut().zip(is_shown) {
                if hides && !shown {
                    entry.layer = HIDDEN;
                }
            }
        }
        self.entries.retain(|entry| entry.layer != HIDDEN);
        Ok(())
    }

    /// The path of an image's file, without a leading slash.
    pub(super) fn path(&self, inode: Inode) -> Option<&[u8]> {
        self.paths(inode).next()
    }

    /// All of them: the names of a file with hard links, in order.
    pub(super) fn paths(&self, inode: Inode) -> impl Iterator<Item = &[u8]> {
        let at = self.entries.partition_point(|entry| entry.inode() < inode);
        let same = self.entries[at..].iter().take_while(move |entry| entry.inode() == inode);
        same.map(|entry| name_at(&self.names, entry.name))
    }

    /// The inode behind an overlay's own, which has the same number; `None` when there is more than one such.
    pub(super) fn below(&self, ino: u64) -> Option<Inode> {
        let candidates = self.devices.iter().map(|&dev| Inode { dev, ino });
        let mut known = candidates.filter(|inode| self.path(*inode).is_some());
        known.next().filter(|_| known.next().is_none())
    }

    /// Is a file on this device another one when its inode's generation is another one?
    pub(super) fn keeps_generations(&self, dev: u32) -> bool {
        self.generations.contains(&dev)
    }

    /// The devices that the layers are on.
    pub(super) fn devices(&self) -> &[u32] {
        &self.devices
    }
}

impl Entry {
    fn inode(&self) -> Inode {
        Inode { dev: self.dev, ino: self.ino }
    }
}

fn name_at(names: &[u8], at: usize) -> &[u8] {
    names[at..].split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Does this view show a regular file of this name?
fn is_file(rootfs: &Path, name: &[u8]) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat(CWD, rootfs, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(|root| openat2(root, name, flags, Mode::empty(), resolve))
        .and_then(fstat)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

pub(super) fn inode(metadata: &fs::Metadata) -> Inode {
    Inode { dev: kernel_dev(metadata.dev()), ino: metadata.ino() }
}

/// A device number as the kernel keeps it inside, which is not how stat(2) packs it.
fn kernel_dev(dev: u64) -> u32 {
    major(dev) << 20 | minor(dev)
}

impl EbpfError {
    pub(super) fn layer(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Layer { path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_inode_and_a_hidden_name_is_not_chosen() {
        let dir = tempfile::tempdir().unwrap();
        let [high, low, merged] = ["high", "low", "merged"].map(|name| dir.path().join(name));
        for dir in [high.clone(), low.join("d"), merged.join("d")] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(low.join("d/b"), "x").unwrap();
        fs::hard_link(low.join("d/b"), low.join("a")).unwrap();
        std::os::unix::fs::symlink("b", low.join("d/link")).unwrap();
        let of = |path: &Path| inode(&fs::metadata(path).unwrap());
        let layers = [high.clone(), low.clone()];
        let known = |identity: &Identity| identity.path(of(&low.join("a"))).map(<[u8]>::to_vec);

        let identity =
            Identity::of(&layers, &merged).expect("TMPDIR is to be on neither btrfs nor an overlay");
        assert_eq!(known(&identity), Some(b"a".to_vec()), "none is shown: the first");
        assert_eq!(identity.paths(of(&low.join("a"))).collect::<Vec<_>>(), [&b"a"[..], b"d/b"]);
        assert_eq!(identity.path(of(&merged)), None);
        assert_eq!(identity.below(of(&low.join("a")).ino), Some(of(&low.join("a"))));
        fs::write(high.join("a"), "of the layer above").unwrap();
        for name in ["a", "d/b"] {
            fs::write(merged.join(name), "as an overlay would show it").unwrap();
        }
        let identity = Identity::of(&layers, &merged).unwrap();
        assert_eq!(known(&identity), Some(b"d/b".to_vec()));
        assert_eq!(identity.paths(of(&low.join("a"))).count(), 1, "the other one is hidden");
        assert_eq!(identity.path(of(&high.join("a"))), Some(&b"a"[..]));
    }

    #[test]
    fn the_same_number_on_two_devices_is_two_files() {
        let entry = |ino, dev, name| Entry { ino, dev, layer: 0, name };
        let identity = Identity {
            entries: vec![entry(5, 1, 0), entry(6, 1, 2), entry(5, 2, 4)],
            names: b"a\0b\0c\0".to_vec(),
            devices: vec![1, 2],
            generations: Vec::new(),
        };
        assert_eq!(identity.path(Inode { dev: 2, ino: 5 }), Some(&b"c"[..]));
        assert_eq!(identity.path(Inode { dev: 2, ino: 6 }), None);
        assert_eq!(identity.below(6), Some(Inode { dev: 1, ino: 6 }));
        assert_eq!(identity.below(5), None, "nobody knows which of them");
    }
}
