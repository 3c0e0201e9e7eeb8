//! Numbers of inodes, as the kernel has them. Plain values.

/// Number of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeNo(pub u64);

impl InodeNo {
    /// The root's.
    pub const ROOT: Self = Self(1);

    /// That of an inode of a tree.
    pub(super) const fn of(number: u32) -> Self {
        Self(number as u64 + 1)
    }

    /// The number in the tree.
    pub(super) fn in_tree(self) -> Option<u32> {
        u32::try_from(self.0.checked_sub(1)?).ok()
    }
}
