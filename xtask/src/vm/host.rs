//! This machine's own root in a guest: read-only, by virtiofs, below what the guest changes. For test programs, which
//! want compilers, containerd and whatever else is installed here.
//!
//! Owns the server; it ends with us. Needs root, because root's files are shown.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::setup;

/// Where Debian has the server: in a package of its own, before trixie in that of qemu.
const SERVERS: [&str; 2] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];
/// How long the server may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server of this machine's root.
#[derive(Debug)]
pub(super) struct Host {
    child: Child,
    socket: PathBuf,
}

impl Host {
    /// Starts it; its socket is made in `dir`. It serves one guest.
    pub(super) fn start(dir: &Path) -> Result<Self> {
        setup::require_root("showing this machine's root to a guest")?;
        let program = SERVERS.into_iter().find(|path| Path::new(path).exists());
        let program =
            program.context("no virtiofsd: apt-get install virtiofsd (before trixie: qemu-system-common)")?;
        let socket = dir.join("host.sock");
        let at = socket.display();
        let words = if program == SERVERS[0] {
            format!("{program} --shared-dir / --cache always --sandbox chroot --socket-path {at}")
        } else {
            format!("{program} -o source=/ -o cache=always -o sandbox=chroot --socket-path={at}")
        };
        let log = std::fs::File::create(dir.join("virtiofsd.log"))?;
        let mut command = exec::tethered("KILL", words.split(' '));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let host = Self { child: command.spawn().context("cannot start virtiofsd")?, socket };
        let begin = Instant::now();
        while !host.socket.exists() {
            if begin.elapsed() > PATIENCE {
                bail!("virtiofsd does not listen: {}", dir.join("virtiofsd.log").display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(host)
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it ends with its guest
        let _ = self.child.wait();
    }
}
