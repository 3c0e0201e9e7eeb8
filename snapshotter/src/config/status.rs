//! `[status]`, ours: what people see of the daemon.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The status socket, and what `/healthz` looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Serve it.
    pub enable: bool,
    /// Path of the socket. Empty: `status.sock` in the root directory.
    pub socket: String,
    /// containerd's socket, whose absence makes `/healthz` bad. Empty: it is not looked at.
    pub containerd_socket: String,
}

impl Default for Status {
    /// The directory is root's alone.
    fn default() -> Self {
        Self { enable: true, socket: String::new(), containerd_socket: String::new() }
    }
}

impl Status {
    /// Path of the socket below `root`, if it is to be served.
    pub fn socket(&self, root: &Path) -> Option<PathBuf> {
        let own = || root.join("status.sock");
        self.enable.then(|| if self.socket.is_empty() { own() } else { PathBuf::from(&self.socket) })
    }

    /// containerd's socket, if it is to be looked at.
    pub fn containerd(&self) -> Option<PathBuf> {
        let path = self.containerd_socket.strip_prefix("unix://").unwrap_or(&self.containerd_socket);
        (!path.is_empty()).then(|| PathBuf::from(path))
    }
}
