//! Who keeps the connection's descriptors while no server runs: the trait [`Keeper`].
//!
//! A keeper outlives the server. It gives the descriptors to one server at a time, which so has the *lease*. What must
//! always hold: a server has the lease only after the threads of the one before have left the kernel, unless it is told
//! that the lease was forced.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// Name of the descriptor of /dev/fuse.
pub(crate) const FUSE: &str = "fuse";
/// Name of the journal's descriptor.
pub(crate) const JOURNAL: &str = "journal";

/// What an earlier server has left.
#[derive(Debug, Default)]
pub struct Kept {
    /// The earlier server could not be ended: a thread of it may still be in the kernel.
    pub forced: bool,
    descriptors: Vec<(String, OwnedFd)>,
}

impl Kept {
    /// With these descriptors and their names.
    pub const fn new(forced: bool, descriptors: Vec<(String, OwnedFd)>) -> Self {
        Self { forced, descriptors }
    }

    /// Takes out the descriptor with this name.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.descriptors.iter().position(|(kept, _)| kept == name)?;
        Some(self.descriptors.swap_remove(at).1)
    }
}

/// Why a keeper does not keep.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The keeper cannot be reached, or went away.
    #[error("cannot talk to the keeper of the connection")]
    Connection(#[source] io::Error),
    /// The keeper's process did not start.
    #[error("cannot start the holder process {program}")]
    Start {
        /// The program.
        program: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The keeper does not want to.
    #[error("the keeper of the connection refuses: {0}")]
    Refused(String),
    /// The keeper says what is not understood: it is of another version.
    #[error("the keeper of the connection answers {0:?}: it is of another version")]
    Answer(String),
}

/// Keeps descriptors for the next server. Calls block for as long as they say, so they are not for async workers.
pub trait Keeper: Send + std::fmt::Debug {
    /// Waits until no other server serves, and takes the lease. A server that is still there after `patience` is killed.
    fn acquire(&mut self, patience: Duration) -> Result<Kept, KeepError>;

    /// Keeps descriptors. After it has returned they outlive this process.
    fn keep(&mut self, descriptors: &[(&str, BorrowedFd<'_>)]) -> Result<(), KeepError>;

    /// Closes all that is kept: the connection ends with this process's own descriptors.
    fn give_up(&mut self) -> Result<(), KeepError>;

    /// Whether the keeper is still there. If it is not, nothing would outlive this process: see
    /// [`Connection::renew`](super::Connection::renew).
    fn is_there(&self) -> bool;
}
