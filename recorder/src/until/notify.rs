//! Readiness as systemd's services tell it: a datagram with the line `READY=1` on the socket that NOTIFY_SOCKET names.
//!
//! [`Notify`] owns the socket. A command of the machine gets one without a file (an abstract one). A container gets one that is bound into the workload's `/dev`, where it hides nothing of the image. Every
//! message is read for as long as the watch lasts, so that a workload that goes on talking never waits for a reader. On
//! our side the socket has no name any more once the workload has it: nothing stays behind, even after SIGKILL.

use std::fs::{self, Permissions};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::workload::{Isolation, Spec};

/// Where the workload finds the socket.
const INSIDE: &str = "/dev/soci-notify.sock";
/// The variable that says so.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// How often the end of the watch is looked for.
const PATIENCE: Duration = Duration::from_millis(50);
/// Number of the next socket of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);
/// A message longer than this is read in part; systemd's own limit is 4096.
const MAX_MESSAGE: usize = 64 << 10;

/// A socket for one workload.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    dir: Option<TempDir>,
}

impl Notify {
    /// Makes the socket and tells the workload of it.
    pub fn new(spec: &mut Spec) -> io::Result<Self> {
        if spec.isolation == Isolation::Host {
            let name = format!("soci-notify-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            spec.process.set_var(VARIABLE, &format!("@{name}"));
            return Ok(Self { socket, dir: None });
        }
        let dir = tempfile::Builder::new().prefix("soci-notify-").tempdir()?;
        let path = dir.path().join("notify.sock");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // The workload may be anybody; the directory keeps everybody else away.
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        spec.process.set_var(VARIABLE, INSIDE);
        spec.binds.push((path, INSIDE.into()));
        Ok(Self { socket, dir: Some(dir) })
    }

    /// Reads messages of a workload that has been started, until the watch is over; `ready` is called at the first that
    /// says so.
    pub(super) fn listen(self, over: &AtomicBool, ready: impl Fn(Instant)) {
        let Self { socket, dir } = self;
        drop(dir); // the workload's mount of it stays
        let mut message = vec![0; MAX_MESSAGE];
        let mut told = false;
        while !over.load(Ordering::Relaxed) {
            match socket.recv(&mut message) {
                Ok(length) if !told && says_ready(&message[..length]) => {
                    ready(Instant::now());
                    told = true;
                }
                Ok(_) => {}
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {}
                    _ => {
                        tracing::warn!(%error, "cannot read notifications");
                        return;
                    }
                },
            }
        }
    }
}

fn says_ready(message: &[u8]) -> bool {
    message.split(|&byte| byte == b'\n').any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_ready_1_says_so() {
        for good in ["READY=1", "READY=1\n", "STATUS=up\nREADY=1\nMAINPID=7"] {
            assert!(says_ready(good.as_bytes()), "{good}");
        }
        for bad in ["", "READY=0", "READY=11", "STATUS=READY=1", "ready=1"] {
            assert!(!says_ready(bad.as_bytes()), "{bad}");
        }
    }
}
