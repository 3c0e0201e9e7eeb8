//! Why an entry cannot be shown, unpacked or planned for. No kernel and no unpacker would take it either.

use super::limits::{MAX_IMPLIED, MAX_NAME, MAX_PATH};

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A part of its name, or of the name of a link's target, is longer than NAME_MAX.
    #[error("a part of the name is longer than {} bytes", MAX_NAME)]
    NameTooLong,
    /// Its path, without links, is longer than PATH_MAX.
    #[error("the path is longer than {} bytes", MAX_PATH)]
    PathTooLong,
    /// The layer implies more directories than are made for it.
    #[error("the layer implies more than {} directories, or too long ones", MAX_IMPLIED)]
    TooManyImplied,
    /// It lies below a file of its layer.
    #[error("it lies below something that is not a directory")]
    BelowFile,
    /// It lies below a whiteout's name.
    #[error("it lies below the name of a whiteout")]
    BelowWhiteout,
    /// More symbolic links lead to its directory than are followed.
    #[error("too many symbolic links lead to its directory")]
    LinkLoop,
    /// The target of a hard link is not in the layer.
    #[error("the target of the hard link is not in the layer")]
    LinkToNothing,
    /// The target of a hard link is a directory.
    #[error("the target of the hard link is a directory")]
    LinkToDirectory,
    /// It is a whiteout without a name, or of `.` or `..`.
    #[error("it is a whiteout of nothing")]
    WhiteoutOfNothing,
    /// The target of a symbolic link is empty or longer than PATH_MAX.
    #[error("the target of the symbolic link is empty or too long")]
    LinkTarget,
    /// A name or value of an extended attribute is longer than the kernel takes, or a capability is none.
    #[error("an extended attribute is not valid")]
    Xattr,
}

/// An entry that cannot be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Number of the entry.
    pub entry: u32,
    /// What is wrong with it.
    pub reason: Reason,
}
