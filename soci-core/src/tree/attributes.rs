//! What the numbers and attributes of an entry become, as containerd and the kernel make it. Keeps no state.

use super::Reason;
use crate::tar::{EntryKind, Mtime};

/// Permissions of a directory that no entry describes; so are those of a layer's root, whose entry says nothing.
pub const ROOT_MODE: u16 = 0o755;

/// Bytes of the name and of the value of an extended attribute, at most (XATTR_NAME_MAX, XATTR_SIZE_MAX).
const MAX_XATTR_NAME: usize = 255;
const MAX_XATTR_VALUE: usize = 65_536;
/// The last time that containerd sets: what fits into 63 bits of nanoseconds.
const LAST_TIME: Mtime = Mtime { secs: i64::MAX / 1_000_000_000, nanos: (i64::MAX % 1_000_000_000) as i32 };

/// Owner or group of an inode. The kernel takes 32 bits of what an archive says, and none for all ones ("leave it").
pub const fn owner(id: i64) -> u32 {
    match id as u32 {
        u32::MAX => 0,
        id => id,
    }
}

/// Time of an inode: as in containerd, 0 for times before 1970 and for those that nanoseconds cannot count.
pub fn mtime(time: Mtime) -> Mtime {
    if time < Mtime::default() || time > LAST_TIME { Mtime::default() } else { time }
}

/// Permission bits of an inode. Those of a symbolic link cannot be set.
pub const fn permissions(kind: EntryKind, mode: i64) -> u16 {
    match kind {
        EntryKind::Symlink => 0o777,
        _ => (mode & 0o7777) as u16,
    }
}

/// Whether an archive may set an attribute, on what is of this kind. Not `trusted`, as in containerd, nor what speaks to overlayfs;
/// the kernel has `user` attributes on files and directories only, and no others than these name spaces.
pub fn keeps_xattr(kind: EntryKind, name: &[u8]) -> bool {
    match name {
        b"system.posix_acl_access" | b"system.posix_acl_default" => kind != EntryKind::Symlink,
        _ if name.starts_with(b"user.overlay.") => false,
        _ if name.starts_with(b"user.") => {
            matches!(kind, EntryKind::Reg | EntryKind::HardLink | EntryKind::Dir)
        }
        _ => name.starts_with(b"security."),
    }
}

/// Whether an attribute stays when a later entry describes the inode again: the change of owner takes a file's capability.
pub fn xattr_stays(kind: EntryKind, name: &[u8]) -> bool {
    kind == EntryKind::Dir || name != b"security.capability"
}

/// Checks an attribute that is kept: the kernel refuses some.
pub fn check_xattr(name: &[u8], value: &[u8]) -> Result<(), Reason> {
    let has_name = !matches!(name, b"user." | b"security.") && name.len() <= MAX_XATTR_NAME;
    let is_valid = name != b"security.capability" || is_capability(value);
    if has_name && is_valid && value.len() <= MAX_XATTR_VALUE { Ok(()) } else { Err(Reason::Xattr) }
}

/// A `struct vfs_cap_data` of revision 2, or one of revision 3 with a root user (`linux/capability.h`).
fn is_capability(value: &[u8]) -> bool {
    let revision = value.get(3).copied();
    matches!((revision, value.len()), (Some(2), 20) | (Some(3), 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        let big = 1 << 32;
        assert_eq!([owner(7), owner(big), owner(big + 7), owner(-1)], [7, 0, 7, 0]);
        let time = |secs, nanos| mtime(Mtime { secs, nanos });
        assert_eq!(time(5, 6), Mtime { secs: 5, nanos: 6 });
        assert_eq!((time(-1, 999), time(9_223_372_037, 0)), (Mtime::default(), Mtime::default()));
        assert_eq!(permissions(EntryKind::Reg, 0o104_755), 0o4755);
        assert_eq!(permissions(EntryKind::Symlink, 0o600), 0o777);
    }

    #[test]
    fn attributes_that_are_kept() {
        use EntryKind::{Dir, Fifo, Reg, Symlink};
        for (kind, name, kept) in [
            (Reg, "user.x", true),
            (Symlink, "user.x", false),
            (Fifo, "user.x", false),
            (Dir, "user.overlay.opaque", false),
            (Dir, "trusted.x", false),
            (Reg, "security.capability", true),
            (Dir, "system.posix_acl_default", true),
            (Reg, "com.example", false),
        ] {
            assert_eq!(keeps_xattr(kind, name.as_bytes()), kept, "{kind} {name}");
        }
        let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(check_xattr(b"security.capability", capability), Ok(()));
        assert_eq!(check_xattr(b"security.capability", b"all"), Err(Reason::Xattr));
        assert_eq!(check_xattr(b"user.", b""), Err(Reason::Xattr));
        assert_eq!(check_xattr(b"user.long", &vec![0; 65_537]), Err(Reason::Xattr));
    }
}
