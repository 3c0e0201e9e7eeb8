//! A command on the host that starts a container, as the user would run it: no namespaces, our standard input, output
//! that is copied and searched.
//!
//! [`HostCommand`] owns the process and the threads that copy its output. The process dies with us, since the launcher
//! that executes it ties it to the thread that started it; dropping the value kills it.

use std::ffi::OsString;
use std::io;
use std::process::{Child, Command, Stdio};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use regex::bytes::Regex;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::{Output, output};
use crate::workload::InitCommand;
use crate::workload::guard::Guard;

/// How often its end is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A running command.
#[derive(Debug)]
pub(super) struct HostCommand {
    child: Child,
    output: Vec<JoinHandle<()>>,
    // Dropped when the child has been waited for.
    #[expect(dead_code, reason = "kept for its drop")]
    guard: Guard,
}

impl HostCommand {
    /// Starts `words` by the launcher, a program that becomes the command and ties it to its parent. `tell` is called
    /// once for each of `patterns` that a line of output matches.
    pub(super) fn start(
        launcher: &InitCommand,
        words: &[OsString],
        to: Output,
        patterns: Vec<(usize, Regex)>,
        tell: impl Fn(usize, Instant) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let mut command = Command::new(&launcher.program);
        command.args(&launcher.args).args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let guarded = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from);
        let guard = match guarded.and_then(|pidfd| Guard::start(launcher, &pidfd, None)) {
            Ok(guard) => guard,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let mut this = Self { child, output: Vec::new(), guard };
        let (out, err) = to;
        if let Some(from) = this.child.stdout.take() {
            this.output.push(output::copy(from, out, patterns.clone(), tell.clone())?);
        }
        if let Some(from) = this.child.stderr.take() {
            this.output.push(output::copy(from, err, patterns, tell)?);
        }
        Ok(this)
    }

    /// Has it ended? Then its exit code as a shell reports it.
    pub(super) fn ended(&mut self) -> Option<u8> {
        use std::os::unix::process::ExitStatusExt;
        let status = self.child.try_wait().ok().flatten()?;
        Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)) as u8)
    }

    /// Waits for its end, but no longer than this.
    pub(super) fn wait_for(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.ended().is_none() {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK_EVERY);
        }
        true
    }

    /// Sends it a signal.
    pub(super) fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let _ = kill_process(Pid::from_child(&self.child), signal); // it is ours, and not waited for
        }
    }

    /// Has its output been copied to its end? Somebody else may hold the other end for longer than it lives.
    pub(super) fn has_spoken(&self) -> bool {
        self.output.iter().all(JoinHandle::is_finished)
    }

    /// Waits until its output has been copied, but no longer than this.
    pub(super) fn join_output(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.has_spoken() && Instant::now() < deadline {
            sleep(LOOK_EVERY);
        }
    }
}

impl Drop for HostCommand {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}
