//! The registry that most people run: `docker-registry` (distribution 2.8, without referrers API) on a loopback port.
//!
//! Owns the process and its directory; both are gone after the drop.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running registry.
#[derive(Debug)]
pub struct DockerRegistry {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl DockerRegistry {
    /// Starts with nothing in it, and waits until it answers.
    #[allow(clippy::new_without_default)] // it starts a process
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directories can be made");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.expect("loopback has free ports").port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).expect("the directory is writable");
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = child.try_wait().expect("the child is ours");
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "docker-registry does not start: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port, _dir: dir }
    }

    /// Its name in image references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // Both fail when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
