//! What to record of a container that somebody else runs. Plain values.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;

use rustix::process::Signal;

use super::Rules;
use crate::container::{Container, News};

/// What to record and for how long.
pub struct ContainerOptions<'a> {
    /// Where the trace of a container goes; an error when it must not be written there.
    pub trace: &'a dyn Fn(&Container) -> io::Result<PathBuf>,
    /// When the recording is over.
    pub rules: Rules,
    /// What containerd tells.
    pub news: &'a Receiver<News>,
    /// Signals that came to the recorder.
    pub signals: &'a Receiver<Signal>,
    /// End the container with the recording.
    pub stop: bool,
}

impl std::fmt::Debug for ContainerOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerOptions").field("rules", &self.rules).finish_non_exhaustive()
    }
}
