//! Whether the daemon is well, and if not, why. Asked anew each time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use soci_core::error::chain;
use tokio::net::UnixStream;

use super::Status;
use crate::blocking::try_blocking;

/// How long containerd's socket may take to take a connection, and the database to be read.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// One sentence for each thing; none: all is well.
    pub problems: Vec<String>,
}

impl Health {
    /// Nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Status {
    /// What is wrong now.
    pub async fn health(self: &Arc<Self>) -> Health {
        let (database, containerd) = tokio::join!(self.database(), self.containerd());
        let problems = [self.starting(), database, self.restoring(), containerd];
        Health { problems: problems.into_iter().flatten().collect() }
    }

    fn starting(&self) -> Option<String> {
        (!self.serves.load(Ordering::Acquire)).then(|| "the snapshotter is starting".to_owned())
    }

    async fn database(&self) -> Option<String> {
        let snapshotter = self.snapshotter()?;
        let checked = try_blocking(move || snapshotter.check_database());
        match tokio::time::timeout(PATIENCE, checked).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(error))) => Some(format!("the database of snapshots fails: {}", chain(&error))),
            Ok(Err(_)) => Some("the database of snapshots fails: its thread has ended".to_owned()),
            Err(_) => Some("the database of snapshots does not answer".to_owned()),
        }
    }

    fn restoring(&self) -> Option<String> {
        let waiting = self.snapshotter()?.served().waiting;
        (waiting > 0)
            .then(|| format!("{waiting} layers of an earlier process are not served yet: their readers wait"))
    }

    async fn containerd(&self) -> Option<String> {
        let socket = self.containerd.as_deref()?;
        let failed = match tokio::time::timeout(PATIENCE, UnixStream::connect(socket)).await {
            Ok(Ok(_)) => return None,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it takes no connection".to_owned(),
        };
        Some(of_containerd(socket, &failed))
    }
}

fn of_containerd(socket: &Path, failed: &str) -> String {
    format!("containerd does not answer on {}: {failed}", socket.display())
}
