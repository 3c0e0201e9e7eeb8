//! Why a request to the snapshotter fails; the classes are containerd's, since its garbage collector and its unpacker
//! decide by them.

use std::io;

/// Failure of a snapshot operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No snapshot of that name.
    #[error("snapshot {0:?} does not exist")]
    NotFound(String),
    /// The name is taken. For the Prepare of an image layer: the layer is there, nothing needs to be downloaded.
    #[error("snapshot {0:?} already exists")]
    AlreadyExists(String),
    /// The state of the snapshot does not allow it.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The request makes no sense.
    #[error("{0}")]
    InvalidArgument(String),
    /// A lazy layer of the chain is not being served.
    #[error("layer {0:?} unavailable")]
    Unavailable(String),
    /// The database of snapshots.
    #[error("snapshot database")]
    Database(#[source] Box<redb::Error>),
    /// A record of the database is not what this version writes.
    #[error("record of snapshot {name:?} is unreadable")]
    Record {
        /// The snapshot.
        name: String,
        /// The decoder's words.
        #[source]
        source: serde_json::Error,
    },
    /// The file system.
    #[error("{action}")]
    Io {
        /// What was being done, with the path.
        action: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl Error {
    pub(super) fn io(action: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { action: action.into(), source: source.into() }
    }
}

/// Every kind of redb's errors fits into its umbrella type.
macro_rules! from_redb {
    ($($kind:ident),*) => { $(
        impl From<redb::$kind> for Error {
            fn from(error: redb::$kind) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )* };
}
from_redb!(DatabaseError, TransactionError, TableError, StorageError, CommitError);

/// Result of a snapshot operation.
pub type Result<T> = std::result::Result<T, Error>;
