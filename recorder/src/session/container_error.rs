//! Why a container of somebody else's was not recorded.

use std::io;

use rustix::process::Signal;
use soci_core::trace::TraceError;

use crate::capture::EbpfError;
use crate::container::{Container, ContainerError};
use crate::until::Rule;

/// Why a container was not recorded.
#[derive(Debug, thiserror::Error)]
pub enum ContainerSessionError {
    /// A rule that cannot come true.
    #[error("end rule {rule} cannot be used here: {why}")]
    Rule {
        /// The rule.
        rule: Rule,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// The command ended, and no container came of it.
    #[error("the command ended with code {code}, and containerd told of no container that is meant{}", list(.seen))]
    NoContainer {
        /// Its exit code.
        code: u8,
        /// Containers that came, and why they are not meant.
        seen: Vec<String>,
    },
    /// The user stopped it before there was anything to record.
    #[error("stopped before a container came")]
    Stopped(Signal),
    /// Nothing to record came in time.
    #[error("no container came in time")]
    TimedOut,
    /// Containerd tells nothing any more.
    #[error("cannot follow the events of containerd")]
    Lost(#[source] ContainerError),
    /// The command could not be started.
    #[error("cannot start the command")]
    Command(#[source] io::Error),
    /// The programs.
    #[error(transparent)]
    Ebpf(#[from] EbpfError),
    /// The layers' directories.
    #[error("cannot open the layers of the container")]
    Layers(#[source] io::Error),
    /// The watch of its end rules.
    #[error("watch the container")]
    Watch(#[source] io::Error),
    /// Where the trace would go.
    #[error("choose a place for the trace")]
    Place(#[source] io::Error),
    /// The trace.
    #[error("cannot write the trace")]
    Trace(#[from] TraceError),
}

fn list(seen: &[String]) -> String {
    if seen.is_empty() { String::new() } else { format!("; there was {}", seen.join(", ")) }
}

/// A container that is not recorded, in a few words.
pub(super) fn other(container: &Container) -> String {
    let kind = if container.sandbox { "sandbox " } else { "" };
    format!("{kind}{} of {}", container.id, container.image)
}
