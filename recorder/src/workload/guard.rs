//! A small process that ends a workload when the recorder is killed.
//!
//! The kernel's own tie (`PR_SET_PDEATHSIG`) is undone when the command becomes another user: by a set-user-ID program,
//! by file capabilities, or by an entrypoint that gives up root. The guard holds a descriptor of the workload's first
//! process, and one end of a pipe whose other end only the recorder has: the kernel closes that with the recorder,
//! whatever ends it. It is a session of its own, so that no terminal's signal reaches it.

use std::fs;
use std::io::{self, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};

use super::{InitCommand, cgroup};

/// How long the killed processes of a cgroup may take to be gone.
const EMPTY: Duration = Duration::from_secs(5);
/// Everything is over, and nothing is left to do.
const DONE: u8 = b'D';

/// A running guard. Dropped when the workload has ended: then it ends, too.
#[derive(Debug)]
pub(crate) struct Guard {
    alive: PipeWriter,
    process: Child,
}

impl Guard {
    /// Starts one for the process of `pidfd` and, if it has one of its own, its cgroup.
    pub(crate) fn start(init: &InitCommand, pidfd: &OwnedFd, cgroup: Option<&Path>) -> io::Result<Self> {
        let (watched, alive) = io::pipe()?;
        let mut command = Command::new(&init.program);
        command.args(&init.guard).args(cgroup).process_group(0);
        command.stdin(pidfd.try_clone()?).stdout(watched).stderr(Stdio::null());
        Ok(Self { process: command.spawn()?, alive })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.alive.write_all(&[DONE]); // it may have been killed
        let _ = self.process.wait();
    }
}

/// Is the guard: waits for the recorder's word that all is well, or for its death. The workload's first process is
/// standard input, the pipe standard output.
pub fn run(cgroup: Option<PathBuf>) -> io::Result<()> {
    let (workload, pipe) =
        (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    let mut word = [0];
    if fs::File::from(pipe).read(&mut word)? == 1 {
        return Ok(());
    }
    let _ = pidfd_send_signal(&workload, Signal::KILL); // it may have ended
    let limit = Instant::now() + EMPTY;
    let patience = Timespec { tv_sec: EMPTY.as_secs() as i64, tv_nsec: 0 };
    poll(&mut [PollFd::new(&workload, PollFlags::IN)], Some(&patience))?;
    let Some(cgroup) = cgroup else { return Ok(()) };
    let _ = cgroup::kill(&cgroup); // kernels before 5.14 cannot: what is left in it stays
    while let Err(error) = fs::remove_dir(&cgroup) {
        if error.kind() == io::ErrorKind::NotFound || Instant::now() > limit {
            break;
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}
