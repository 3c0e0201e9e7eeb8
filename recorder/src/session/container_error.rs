//! Why a container of somebody else's was not recorded.

use std::io;

use soci_core::trace::TraceError;

use crate::capture::EbpfError;
use crate::container::ContainerError;
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
    /// Nothing happened in time, or the user stopped it before.
    #[error("no container came before the recording was {0}")]
    NoStart(&'static str),
    /// Containerd tells nothing any more.
    #[error("follow the events of containerd")]
    Lost(#[source] ContainerError),
    /// The command could not be started.
    #[error("start the command")]
    Command(#[source] io::Error),
    /// The programs.
    #[error(transparent)]
    Ebpf(#[from] EbpfError),
    /// The layers' directories.
    #[error("open the layers of the container")]
    Layers(#[source] io::Error),
    /// The watch of its end rules.
    #[error("watch the container")]
    Watch(#[source] io::Error),
    /// The trace.
    #[error("write the trace")]
    Trace(#[from] TraceError),
}

fn list(seen: &[String]) -> String {
    if seen.is_empty() { String::new() } else { format!("; there was {}", seen.join(", ")) }
}
