//! What can go wrong in the file system, and which errno and log level it deserves.
//!
//! The one place where an error of the rooms below becomes a number that the kernel gives to a process.

use crate::span::SpanError;

/// Failure of a file system operation.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// No such name, or no such inode.
    #[error("no such file or directory")]
    NotFound,
    /// The operation needs a directory.
    #[error("not a directory")]
    NotDirectory,
    /// The operation does not fit the kind of file.
    #[error("operation does not fit the kind of file")]
    WrongKind,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The layer has no extended attributes at all.
    #[error("layer has no extended attributes")]
    NoAttributes,
    /// The layer cannot be changed.
    #[error("layer is read-only")]
    ReadOnly,
    /// The bytes could not be had.
    #[error("content could not be read")]
    Content(#[source] SpanError),
}

impl FsError {
    /// The errno of the answer.
    pub fn errno(&self) -> i32 {
        use rustix::io::Errno;
        match self {
            Self::NotFound => Errno::NOENT,
            Self::NotDirectory => Errno::NOTDIR,
            Self::WrongKind => Errno::INVAL,
            Self::NoAttribute => Errno::NODATA,
            Self::NoAttributes => Errno::NOSYS,
            Self::ReadOnly => Errno::ROFS,
            Self::Content(_) => Errno::IO,
        }
        .raw_os_error()
    }
}
