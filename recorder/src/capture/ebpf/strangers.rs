//! Events of files that are not the image's: why they are not.
//!
//! Owns the counts, and the files that only the end of the recording can explain: those on a file system of the layers,
//! where what the workload writes is, too.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use recorder_ebpf::UNLINKED;
use soci_core::trace::Outside;

use crate::rootfs::each_file;

use super::identity::{self, Inode};

/// More different files than this are not told apart.
const MAX_FILES: usize = 1 << 16;

#[derive(Debug, Default)]
pub(super) struct Strangers {
    known: Outside,
    open: HashMap<Inode, u64>,
    devices: Vec<u32>,
    /// Our own program and its libraries: the workload's first process begins as one of us.
    ours: HashSet<Inode>,
}

impl Strangers {
    /// `devices` are those of the layers and of what the workload writes.
    pub(super) fn new(devices: Vec<u32>) -> Self {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Self { devices, ours: maps.lines().filter_map(mapped).collect(), ..Self::default() }
    }

    pub(super) fn note(&mut self, inode: Inode, flags: u16) {
        if flags & UNLINKED != 0 {
            self.known.deleted += 1;
        } else if inode.dev == 0 {
            self.known.unknown += 1;
        } else if !self.devices.contains(&inode.dev) || self.ours.contains(&inode) {
            self.known.elsewhere += 1;
        } else if let Some(count) = self.open.get_mut(&inode) {
            *count += 1;
        } else if self.open.len() < MAX_FILES {
            self.open.insert(inode, 1);
        } else {
            self.known.unknown += 1;
        }
    }

    /// An event that says nothing.
    pub(super) fn unknown(&mut self) {
        self.known.unknown += 1;
    }

    /// How many there are without a look at what was written.
    pub(super) fn total(&self) -> u64 {
        self.known.total() + self.open.values().sum::<u64>()
    }

    /// All of them, by reason. `upper` has what the workload wrote, if it is known where that is.
    pub(super) fn by_reason(&self, upper: Option<&Path>) -> Outside {
        let mut written = HashSet::new();
        let looked = upper.map_or(Ok(()), |upper| {
            each_file(upper, &mut |_, metadata| {
                written.insert(identity::inode(metadata));
                Ok(())
            })
        });
        if let Err((path, error)) = looked {
            tracing::debug!(path = %path.display(), %error, "cannot look through what the workload wrote");
        }
        let mut outside = self.known;
        for (inode, count) in &self.open {
            *(if written.contains(inode) { &mut outside.written } else { &mut outside.unknown }) += count;
        }
        outside
    }
}

/// The file of a line of /proc/PID/maps: addresses, permissions, offset, device, inode, path. proc_pid_maps(5).
fn mapped(line: &str) -> Option<Inode> {
    let mut words = line.split_ascii_whitespace().skip(3);
    let (major, minor) = words.next()?.split_once(':')?;
    let number = |hex| u32::from_str_radix(hex, 16).ok();
    let ino = words.next()?.parse().ok().filter(|ino| *ino != 0)?;
    Some(Inode { dev: number(major)? << 20 | number(minor)?, ino })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_has_one_reason() {
        let upper = tempfile::tempdir().unwrap();
        let file = upper.path().join("written");
        std::fs::write(&file, "x").unwrap();
        let written = identity::inode(&std::fs::metadata(&file).unwrap());
        let mut strangers = Strangers::new(vec![written.dev]);
        strangers.note(written, 0);
        strangers.note(written, 0);
        strangers.note(written, UNLINKED);
        strangers.note(Inode { ino: written.ino + 1000, ..written }, 0);
        strangers.note(Inode { dev: written.dev + 1, ..written }, 0);
        strangers.note(Inode { dev: 0, ino: 0 }, 0);
        strangers.unknown();
        let own = identity::inode(&std::fs::metadata("/proc/self/exe").unwrap());
        assert!(strangers.ours.contains(&own), "{:?}", strangers.ours);
        let outside = strangers.by_reason(Some(upper.path()));
        assert_eq!(outside, Outside { elsewhere: 1, written: 2, deleted: 1, unknown: 3 });
        assert_eq!((outside.total(), strangers.total()), (7, 7));
    }
}
