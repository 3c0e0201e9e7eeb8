//! Takes everything down that a daemon has left mounted: the layers, the hidden file system, the holder
//! (`soci-snapshotter-grpc unmount`). No state lives here.
//!
//! What must always hold: nothing is taken from a daemon that runs; a container that uses a layer is named before its files
//! are taken away. Nothing on a mount is touched, only the mount table.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::hidden::holder::Holder;
use crate::hidden::{KeepError, Keeper};
use crate::lock::{LockError, RootLock};
use crate::mountinfo;
use crate::mounts::{HIDDEN, HOLDER_SOCKET, detach};
use crate::users::users;

/// How long a server that is dying may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Mounts that are named in an error.
const NAMED: usize = 5;

/// Why not everything is down.
#[derive(Debug, thiserror::Error)]
pub enum TakeDownError {
    /// A daemon serves.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Something uses layers.
    #[error(
        "{count} mounts use layers, among them {}: stop their containers first, or use --force, after which they get errors",
        .some.join(", ")
    )]
    InUse {
        /// How many.
        count: usize,
        /// Where some are.
        some: Vec<String>,
    },
    /// A mount resists.
    #[error("cannot unmount {}", .path.display())]
    Unmount {
        /// The mount.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The mount table cannot be read.
    #[error("cannot read the mount table")]
    Table(#[source] io::Error),
    /// The holder cannot be told.
    #[error("cannot tell the holder")]
    Holder(#[from] KeepError),
}

/// Takes down what is mounted below a daemon's directory. How many mounts that were.
///
/// # Errors
/// When a daemon runs, or, without `force`, when a layer is used.
pub fn take_down(root: &Path, force: bool) -> Result<usize, TakeDownError> {
    let root = match fs::canonicalize(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        root => root.map_err(TakeDownError::Table)?,
    };
    let _lock = RootLock::take(&root, Duration::ZERO)?;
    let users = users(&root).map_err(TakeDownError::Table)?;
    if !users.is_empty() && !force {
        let count = users.len();
        let some = users.into_iter().take(NAMED).map(|point| point.display().to_string()).collect();
        return Err(TakeDownError::InUse { count, some });
    }
    let mut points = mountinfo::below(&root).map_err(TakeDownError::Table)?;
    // The hidden one is below all others.
    points.sort_by_key(|point| point.starts_with(root.join(HIDDEN)));
    for point in &points {
        let failed = |source| TakeDownError::Unmount { path: point.clone(), source };
        detach(point).map_err(failed)?;
    }
    if let Some(mut holder) = Holder::connect(&root.join(HOLDER_SOCKET))? {
        holder.acquire(PATIENCE)?;
        holder.give_up()?;
    }
    Ok(points.len())
}
