//! Owner, mode, extended attributes and times of what is written.
//!
//! The order matters: a change of owner clears set-user-id bits and file capabilities, so the owner comes first, then
//! xattrs, then the mode, then the times. Attributes in overlayfs's own namespaces are never taken from an archive.

use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fstat,
    getxattr, listxattr, lsetxattr, utimensat,
};
use rustix::io::Errno;

use super::place::Place;
use super::{UnpackError, Whiteouts};
use crate::tar::{Entry, EntryKind, Mtime};

/// PAX records with this prefix are extended attributes.
const PAX_XATTR: &[u8] = b"SCHILY.xattr.";
/// Names that steer overlayfs: an archive that sets them would redirect lookups between layers.
const OVERLAY_NAMESPACES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// The kernel's limit for one value (XATTR_SIZE_MAX) and for the list (XATTR_LIST_MAX).
const XATTR_MAX: usize = 65536;

/// A character device 0:0, as overlayfs writes a whiteout.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Marks a directory as opaque.
pub(super) fn set_opaque(place: &Place<'_>, whiteouts: Whiteouts) -> Result<(), Errno> {
    lsetxattr(place.proc_path(), whiteouts.opaque_xattr(), b"y", XattrFlags::empty())
}

/// Puts owner, xattrs, mode and (for all but directories) times of an entry on what was made at `place`.
pub(super) fn set(place: &Place<'_>, entry: &Entry, name: &[u8]) -> Result<(), UnpackError> {
    let fail = |action| move |error: Errno| UnpackError::io(action, name, error);
    let uid = id(entry.uid, "uid", name)?;
    let gid = id(entry.gid, "gid", name)?;
    chownat(
        place.dir,
        place.base,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(fail("set owner of"))?;
    for (key, value) in &entry.pax {
        let Some(key) = key.strip_prefix(PAX_XATTR) else { continue };
        if OVERLAY_NAMESPACES.iter().any(|namespace| key.starts_with(namespace)) {
            continue;
        }
        match lsetxattr(place.proc_path(), key, value, XattrFlags::empty()) {
            // The destination knows no such attribute (no SELinux, user.* on a symlink): the file is still right.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(fail("set extended attribute of")(error)),
        }
    }
    if entry.kind != EntryKind::Symlink {
        chmodat(place.dir, place.base, mode(entry), AtFlags::empty()).map_err(fail("set mode of"))?;
    }
    if entry.kind != EntryKind::Dir {
        set_mtime(place, entry.mtime).map_err(fail("set times of"))?;
    }
    Ok(())
}

pub(super) fn set_mtime(place: &Place<'_>, mtime: Mtime) -> Result<(), Errno> {
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: i64::from(mtime.nanos.clamp(0, 999_999_999)) };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(place.dir, place.base, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Gives the directory at `place` the attributes of another one.
pub(super) fn copy_directory(from: &OwnedFd, place: &Place<'_>) -> Result<(), Errno> {
    let stat = fstat(from)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(place.dir, place.base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let source = Place { dir: from, base: b"." }.proc_path();
    let mut names = vec![0; XATTR_MAX];
    let length = listxattr(&source, &mut names[..]).unwrap_or(0);
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if OVERLAY_NAMESPACES.iter().any(|namespace| name.starts_with(namespace)) {
            continue;
        }
        let mut value = vec![0; XATTR_MAX];
        let length = getxattr(&source, name, &mut value[..])?;
        match lsetxattr(place.proc_path(), name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    chmodat(place.dir, place.base, Mode::from(stat.st_mode & 0o7777), AtFlags::empty())?;
    set_mtime(place, Mtime { secs: stat.st_mtime, nanos: stat.st_mtime_nsec as i32 })
}

/// Permission bits of an entry.
pub(super) fn mode(entry: &Entry) -> Mode {
    Mode::from((entry.mode & 0o7777) as u32)
}

/// A user or group id; all ones would mean "leave as it is".
fn id(value: i64, field: &'static str, name: &[u8]) -> Result<u32, UnpackError> {
    u32::try_from(value).ok().filter(|&id| id != u32::MAX).ok_or_else(|| UnpackError::Number {
        path: String::from_utf8_lossy(name).into_owned(),
        field,
        value,
    })
}
