//! An access ACL and the mode of its file, which says some of the same: what an unpacker has set last counts, and that is the mode.
//!
//! The kernel's format (linux/posix_acl_xattr.h): a version, then entries of tag, permissions and id. Pure.

use std::borrow::Cow;

/// Name of the attribute.
pub const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

const VERSION: [u8; 4] = 2u32.to_le_bytes();
const ENTRY: usize = 8;
const USER_OBJ: u16 = 1;
const GROUP_OBJ: u16 = 4;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The value of an access ACL as chmod(2) with `permissions` leaves it: the owner, the mask (without one, the group) and the
/// others get what the mode says. What is no ACL stays as it is.
pub fn after_chmod(value: &[u8], permissions: u16) -> Cow<'_, [u8]> {
    let Some(entries) = value.strip_prefix(&VERSION).filter(|entries| entries.len().is_multiple_of(ENTRY))
    else {
        return Cow::Borrowed(value);
    };
    let tag = |entry: &[u8]| u16::from_le_bytes([entry[0], entry[1]]);
    let has_mask = entries.chunks_exact(ENTRY).any(|entry| tag(entry) == MASK);
    let mut changed = value.to_vec();
    for entry in changed[VERSION.len()..].chunks_exact_mut(ENTRY) {
        let shift = match tag(entry) {
            USER_OBJ => 6,
            MASK => 3,
            GROUP_OBJ if !has_mask => 3,
            OTHER => 0,
            _ => continue,
        };
        entry[2..4].copy_from_slice(&(permissions >> shift & 7).to_le_bytes());
    }
    if changed == value { Cow::Borrowed(value) } else { Cow::Owned(changed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = VERSION.to_vec();
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    #[test]
    fn the_mode_decides_of_the_owner_the_mask_and_the_others() {
        let said = acl(&[
            (1, 7, u32::MAX),
            (2, 4, 1000),
            (4, 5, u32::MAX),
            (0x10, 7, u32::MAX),
            (0x20, 0, u32::MAX),
        ]);
        let kept = acl(&[
            (1, 6, u32::MAX),
            (2, 4, 1000),
            (4, 5, u32::MAX),
            (0x10, 1, u32::MAX),
            (0x20, 4, u32::MAX),
        ]);
        assert_eq!(after_chmod(&said, 0o614), kept);
        assert!(matches!(after_chmod(&kept, 0o4614), Cow::Borrowed(_)));
        let without = acl(&[(1, 7, u32::MAX), (4, 7, u32::MAX), (0x20, 7, u32::MAX)]);
        assert_eq!(
            after_chmod(&without, 0o640),
            acl(&[(1, 6, u32::MAX), (4, 4, u32::MAX), (0x20, 0, u32::MAX)])
        );
        for odd in [&b""[..], b"\x02\0\0\0abc", b"\x03\0\0\0\x01\0\x07\0\0\0\0\0"] {
            assert_eq!(after_chmod(odd, 0o777), odd);
        }
    }
}
