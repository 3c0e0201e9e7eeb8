//! Where a path of the archive leads: through the layer's own symbolic links, never above its root.
//!
//! As containerd's unpack does, not the kernel: a relative target is cleaned together with what comes before it, and what is
//! missing at the end of a link is made there. Links of the layers below are not seen.

use std::hash::BuildHasher;
use std::ops::Range;

use super::grow::Growing;
use super::layer::{NameAt, Origin, bytes};
use super::limits::{MAX_NAME, MAX_PATH};
use super::{Entries, Marker, ROOT, Reason, path};
use crate::tar::EntryKind;

/// Symbolic links followed in one path, at most: as in containerd.
const MAX_HOPS: usize = 255;

/// A part of a path that has been followed: the directory, unless it is missing, and its name.
type Way = Vec<(Option<u32>, NameAt)>;

impl Growing {
    /// The directory that an entry is in, made if it is missing, and where its own name is in what the archive says. `None` for
    /// the root, and for what lies below bookkeeping of aufs.
    pub(super) fn locate<E: Entries + ?Sized>(
        &mut self,
        entries: &E,
        entry: u32,
    ) -> Result<Option<(u32, Range<usize>)>, Reason> {
        let whole = entries.name(entry);
        let quick = path::last_part(whole);
        if let Some((above, own)) = &quick
            && let Some(directory) = self.remembered(entries, above)
        {
            return Ok(Some((directory, own.clone())));
        }
        let parts = path::parts(whole);
        let Some((last, parts_above)) = parts.split_last() else { return Ok(None) };
        let is_aufs = |part: &Range<usize>| Marker::of(&whole[part.clone()]) == Marker::Aufs;
        if parts_above.iter().any(is_aufs) {
            return Ok(None);
        }
        let mut directory = ROOT;
        for (known, name) in self.follow(entries, names(entry, false, parts_above))? {
            directory = match known {
                Some(known) => known,
                None => self.imply(entries, directory, name)?,
            };
        }
        if let Some((above, own)) = quick
            && own == *last
        {
            self.remember(entries, entry, above, directory);
        }
        Ok(Some((directory, last.clone())))
    }

    /// The directory of a hard link's target, which must be there, and where the target's name is in the link.
    pub(super) fn locate_target<E: Entries + ?Sized>(
        &mut self,
        entries: &E,
        entry: u32,
    ) -> Result<(u32, Range<usize>), Reason> {
        let parts = path::parts(entries.link(entry));
        let (last, above) = parts.split_last().ok_or(Reason::LinkToDirectory)?;
        let way = self.follow(entries, names(entry, true, above))?;
        let directory = way.last().map_or(Some(ROOT), |(directory, _)| *directory);
        Ok((directory.ok_or(Reason::LinkToNothing)?, last.clone()))
    }

    /// The directories that names lead to, one after the other; those that are missing are at the end.
    fn follow<E: Entries + ?Sized>(&mut self, entries: &E, mut rest: Vec<NameAt>) -> Result<Way, Reason> {
        let mut way: Way = Vec::new();
        let mut length = 0;
        let mut hops = MAX_HOPS;
        while let Some(part) = rest.pop() {
            let name = bytes(entries, part);
            if name == b".." {
                length -= way.pop().map_or(0, |(_, name)| usize::from(name.length) + 1);
                continue;
            }
            if name.len() > MAX_NAME {
                return Err(Reason::NameTooLong);
            }
            if Marker::of(name) != Marker::None {
                return Err(Reason::BelowWhiteout);
            }
            let here = way.last().map_or(Some(ROOT), |(directory, _)| *directory);
            let child = here.and_then(|here| self.child(entries, here, name));
            match child {
                Some(child) if self.is_directory(child) => way.push((Some(child), part)),
                Some(child) if !matches!(self.origin(child), Origin::Whiteout(_)) => {
                    hops = hops.checked_sub(1).ok_or(Reason::LinkLoop)?;
                    let link = self.symlink(entries, child).ok_or(Reason::BelowFile)?;
                    let target = entries.link(link);
                    self.to_follow = self.to_follow.checked_sub(target.len()).ok_or(Reason::LinkLoop)?;
                    if target.starts_with(b"/") {
                        way.clear();
                    }
                    lead(link, target, &mut way, &mut rest);
                    length = way.iter().map(|(_, name)| usize::from(name.length) + 1).sum();
                    continue;
                }
                // Missing, or a whiteout, which gives way.
                _ => way.push((None, part)),
            }
            length += name.len() + 1;
            if length > MAX_PATH {
                return Err(Reason::PathTooLong);
            }
        }
        Ok(way)
    }

    /// The entry of a symbolic link.
    fn symlink<E: Entries + ?Sized>(&self, entries: &E, inode: u32) -> Option<u32> {
        match self.origin(inode) {
            Origin::Entry(entry) if entries.kind(entry) == EntryKind::Symlink => Some(entry),
            _ => None,
        }
    }

    /// Where names with these bytes before their last part have led.
    fn remembered<E: Entries + ?Sized>(&self, entries: &E, above: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(above);
        let is_it = |(entry, length, _): &(u32, u32, u32)| &entries.name(*entry)[..*length as usize] == above;
        self.resolved.find(hash, is_it).map(|(.., directory)| *directory)
    }

    fn remember<E: Entries + ?Sized>(&mut self, entries: &E, entry: u32, above: &[u8], directory: u32) {
        let hasher = &self.hasher;
        let rehash =
            |(entry, length, _): &(u32, u32, u32)| hasher.hash_one(&entries.name(*entry)[..*length as usize]);
        self.resolved.insert_unique(hasher.hash_one(above), (entry, above.len() as u32, directory), rehash);
    }
}

/// Puts what a link's target says before the rest of a path.
fn lead(link: u32, target: &[u8], way: &mut Way, rest: &mut Vec<NameAt>) {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for part in target.split(|&byte| byte == b'/') {
        let range = start..start + part.len();
        start += part.len() + 1;
        match part {
            b"" | b"." => {}
            // An absolute target is followed part by part, a relative one is cleaned first.
            b".." if !target.starts_with(b"/") => {
                if parts.pop().is_none() {
                    way.pop();
                }
            }
            _ => parts.push(range),
        }
    }
    rest.extend(names(link, true, &parts));
}

/// Parts of an entry's name or link, the first one at the end.
fn names(entry: u32, in_link: bool, parts: &[Range<usize>]) -> Vec<NameAt> {
    // What does not fit is refused for its length before it is a name.
    let length = |part: &Range<usize>| u16::try_from(part.len()).unwrap_or(u16::MAX);
    let name =
        |part: &Range<usize>| NameAt { entry, start: part.start as u32, length: length(part), in_link };
    parts.iter().rev().map(name).collect()
}
