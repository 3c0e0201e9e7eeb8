//! No keeper: the connection ends with the process that serves it. For tests, and for a daemon that takes its mounts away
//! at its end. No state lives here.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::keeper::{KeepError, Keeper, Kept};

/// Keeps nothing.
#[derive(Clone, Copy, Debug)]
pub struct Nobody;

impl Keeper for Nobody {
    fn acquire(&mut self, _patience: Duration) -> Result<Kept, KeepError> {
        Ok(Kept::default())
    }

    fn keep(&mut self, _descriptors: &[(&str, BorrowedFd<'_>)]) -> Result<(), KeepError> {
        Ok(())
    }

    fn give_up(&mut self) -> Result<(), KeepError> {
        Ok(())
    }

    fn is_there(&self) -> bool {
        true
    }
}
