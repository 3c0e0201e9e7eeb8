//! The work itself, in the helper process. No state lives here.
//!
//! What must always hold: nothing is looked up outside of the mount that is meant, whatever the names in it are.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;

use rustix::fs::{Advice, CWD, Dir, FileType, Mode, OFlags, RawDir, ResolveFlags, fadvise, openat, openat2};

use super::work::{Place, Ranges, Work, relative};
use crate::hidden::mount;
use crate::idmap::kernel::show_mapped;

/// Bytes of a directory that are listed at once: only in the first of its pieces the kernel learns more than names.
const LISTING: usize = 256 << 10;
/// Names of a directory that are listed at most. In larger ones, what is needed is looked up one by one.
const MAX_LISTED: usize = 4096;
/// Bytes of which pages are made at once: the kernel makes no more by one call, and says nothing of the rest.
const READ_AT_ONCE: u64 = 128 << 10;

pub(super) fn perform(work: &Work) -> io::Result<()> {
    match work {
        Work::MountImage { image, mountpoint, read_ahead } => {
            mount::mount_image(image, mountpoint, *read_ahead)
        }
        Work::Bind { tree, mountpoint } => mount::bind(tree, mountpoint),
        Work::Detach { mountpoint } => mount::detach(mountpoint),
        Work::Prime { mountpoint } => mount::prime(mountpoint),
        Work::LookUp(place) => look_up(place),
        Work::List(place) => list(place),
        Work::Fill { mountpoint, files } => {
            let mut outcome = Ok(());
            for Ranges { path, ranges } in files {
                let place = Place { mountpoint: mountpoint.clone(), path: path.clone() };
                outcome = outcome.and(fill(&place, ranges)); // one that cannot be read leaves the others no worse
            }
            outcome
        }
        Work::ShowMapped { source, mountpoint, maps } => show_mapped(source, mountpoint, maps),
        Work::Forget { mountpoint } => forget(&Place { mountpoint: mountpoint.clone(), path: Vec::new() }),
    }
}

fn open_in(place: &Place, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let root = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, &place.mountpoint, root, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(&root, relative(&place.path), flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn look_up(place: &Place) -> io::Result<()> {
    open_in(place, OFlags::PATH | OFlags::NOFOLLOW)?;
    Ok(())
}

/// Lists a directory: the kernel then knows most of what its names are by few requests.
fn list(place: &Place) -> io::Result<()> {
    let directory = open_in(place, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
    let mut buffer = Vec::with_capacity(LISTING);
    let mut listed = RawDir::new(directory, buffer.spare_capacity_mut());
    for _ in 0..MAX_LISTED {
        match listed.next() {
            None => break,
            Some(entry) => _ = entry?,
        }
    }
    Ok(())
}

fn fill(place: &Place, ranges: &[(u64, u64)]) -> io::Result<()> {
    let file = open_in(place, OFlags::RDONLY | OFlags::NOFOLLOW)?;
    for (start, length) in ranges {
        let end = start.saturating_add(*length);
        let mut at = *start;
        while at < end {
            let part = (end - at).min(READ_AT_ONCE);
            fadvise(&file, at, NonZeroU64::new(part), Advice::WillNeed)?;
            at += part;
        }
    }
    Ok(())
}

/// Forgets the content of all files. One that cannot be reached leaves the others no worse.
fn forget(root: &Place) -> io::Result<()> {
    let mut waiting = vec![Vec::new()];
    let mut outcome = Ok(());
    while let Some(path) = waiting.pop() {
        let directory = Place { path, ..root.clone() };
        outcome = outcome.and(forget_in(&directory, &mut waiting));
    }
    outcome
}

/// Those in one directory; directories in it are added to `waiting`.
fn forget_in(directory: &Place, waiting: &mut Vec<Vec<u8>>) -> io::Result<()> {
    let listed = open_in(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
    let mut outcome = Ok(());
    for entry in Dir::new(listed)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let above = &directory.path[..];
        let path = if above.is_empty() { name.to_vec() } else { [above, name].join(&b'/') };
        match entry.file_type() {
            FileType::Directory if name != b"." && name != b".." => waiting.push(path),
            FileType::RegularFile => {
                let place = Place { path, ..directory.clone() };
                let file = open_in(&place, OFlags::RDONLY | OFlags::NOFOLLOW);
                outcome = outcome.and(file.and_then(|file| fadvise(file, 0, None, Advice::DontNeed)));
            }
            _ => {}
        }
    }
    Ok(outcome?)
}
