//! Owner, mode, extended attributes and times of what is written.
//!
//! The order matters: a change of owner clears set-user-id bits and file capabilities, so the owner comes first, then
//! xattrs, then the mode, then the times. What is kept of an archive's words [`crate::tree`] decides.

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, lsetxattr, utimensat,
};
use rustix::io::Errno;

use super::below::DirectoryAttributes;
use super::place::Place;
use super::{UnpackError, Whiteouts};
use crate::tar::{Entry, EntryKind, Mtime};
use crate::tree::{self, Entries};

/// Without it a program lacks rights that its image gives it: never left out.
const CAPABILITY: &[u8] = b"security.capability";

/// What is made in the directory would inherit it: it comes at the end.
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// Marks a directory as opaque.
pub(super) fn set_opaque(place: &Place<'_>, whiteouts: Whiteouts) -> Result<(), Errno> {
    lsetxattr(place.proc_path(), whiteouts.opaque_xattr(), b"y", XattrFlags::empty())
}

/// Puts owner, xattrs, mode and (for all but directories) times of an entry on what was made at `place`, which is a `kind`.
pub(super) fn set(place: &Place<'_>, kind: EntryKind, entry: &Entry) -> Result<(), UnpackError> {
    let fail = |action| move |error: Errno| UnpackError::io(action, &entry.name, error);
    set_owner(place, tree::owner(entry.uid), tree::owner(entry.gid)).map_err(fail("set owner of"))?;
    for (name, value) in std::slice::from_ref(entry).xattrs(0) {
        if tree::keeps_xattr(kind, name) && name != DEFAULT_ACL {
            set_xattr(place, name, value).map_err(fail("set extended attribute of"))?;
        }
    }
    if kind != EntryKind::Symlink {
        let mode = Mode::from(u32::from(tree::permissions(kind, entry.mode)));
        chmodat(place.dir, place.base, mode, AtFlags::empty()).map_err(fail("set mode of"))?;
    }
    if kind != EntryKind::Dir {
        set_mtime(place, tree::mtime(entry.mtime)).map_err(fail("set times of"))?;
    }
    Ok(())
}

/// Puts what a directory's entries say beside that on it, when nothing is made in it any more.
pub(super) fn complete_directory<'a>(
    place: &Place<'_>,
    entries: impl Iterator<Item = &'a Entry>,
    mtime: Mtime,
) -> Result<(), Errno> {
    for (name, value) in entries.flat_map(|entry| std::slice::from_ref(entry).xattrs(0)) {
        if name == DEFAULT_ACL {
            set_xattr(place, name, value)?;
            break; // the first entry counts most
        }
    }
    set_mtime(place, tree::mtime(mtime))
}

fn set_owner(place: &Place<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    chownat(place.dir, place.base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

/// Sets an attribute. One that the destination's file system cannot have is left out, as containerd does, with a warning.
fn set_xattr(place: &Place<'_>, name: &[u8], value: &[u8]) -> Result<(), Errno> {
    match lsetxattr(place.proc_path(), name, value, XattrFlags::empty()) {
        Err(Errno::NOTSUP) if name != CAPABILITY => {
            let (name, file) = (String::from_utf8_lossy(name), String::from_utf8_lossy(place.base));
            tracing::warn!(%name, %file, "the file system has no such extended attribute: left out");
            Ok(())
        }
        result => result,
    }
}

pub(super) fn set_mtime(place: &Place<'_>, mtime: Mtime) -> Result<(), Errno> {
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: i64::from(mtime.nanos.clamp(0, 999_999_999)) };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(place.dir, place.base, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Gives the directory at `place` these attributes.
pub(super) fn describe(place: &Place<'_>, attributes: &DirectoryAttributes) -> Result<(), Errno> {
    set_owner(place, attributes.uid, attributes.gid)?;
    for (name, value) in &attributes.xattrs {
        set_xattr(place, name, value)?;
    }
    describe_plainly(place, attributes)
}

/// Gives the directory at `place` the attributes of what nobody describes. Who is not root owns what it makes.
pub(super) fn describe_as_nobody(place: &Place<'_>) -> Result<(), Errno> {
    let nobody = DirectoryAttributes::default();
    // A directory with the set-group-ID bit has given it its own group.
    match set_owner(place, nobody.uid, nobody.gid) {
        Ok(()) | Err(Errno::PERM) => describe_plainly(place, &nobody),
        error => error,
    }
}

fn describe_plainly(place: &Place<'_>, attributes: &DirectoryAttributes) -> Result<(), Errno> {
    let mode = Mode::from(u32::from(attributes.permissions));
    chmodat(place.dir, place.base, mode, AtFlags::empty())?;
    set_mtime(place, attributes.mtime)
}
