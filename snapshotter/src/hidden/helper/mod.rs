//! Work on the hidden mount, done by helper processes.
//!
//! A process that waits for an answer of the server inside the kernel cannot be killed before it has it. If the server itself
//! waited so, it could not die, its keeper would not see its end, and no successor would answer. So everything that touches
//! what the connection serves is done by other processes: programs that call [`serve`]. A helper goes on when the
//! server dies; it ends when the successor has answered it, because then nobody is at the other end of its pipe.
//!
//! A [`Helpers`] owns the processes that wait for work. Each does one piece at a time; as many are started as there is work at
//! once. What must always hold: a helper has no descriptor of the server; one that is late is killed and never used again.

mod perform;
mod work;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use work::{Place, Ranges, Work};

/// Helpers that are kept when there is no work.
const MAX_IDLE: usize = 4;

/// Why a helper has not done its work.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The process cannot be run.
    #[error("cannot run the helper process {}", .program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The work failed.
    #[error("helper process failed: {work}")]
    Work {
        /// The work.
        work: Work,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The work was not done in time. The process was killed.
    #[error("helper process took more than {} s: {work}", .limit.as_secs())]
    Late {
        /// The work.
        work: Work,
        /// The limit.
        limit: Duration,
    },
    /// The process ended before it answered.
    #[error("helper process ended before it answered: {work}")]
    Ended {
        /// The work.
        work: Work,
        /// What the pipe said.
        #[source]
        source: io::Error,
    },
}

impl HelperError {
    /// The kernel's reason, if the work was tried and failed.
    pub fn refusal(&self) -> Option<&io::Error> {
        match self {
            Self::Work { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The program that does the work.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program, which calls [`serve`] when it is run with `words`.
    pub path: PathBuf,
    /// Its words.
    pub words: Vec<OsString>,
    /// Its name in lists of processes.
    pub name: OsString,
}

/// The helpers.
#[derive(Debug)]
pub struct Helpers {
    program: Program,
    idle: Mutex<Vec<Process>>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

/// What comes of asking one process.
enum Asked {
    Errno(i32),
    Late,
    Ended(io::Error),
}

impl Helpers {
    /// Starts none yet.
    pub const fn new(program: Program) -> Self {
        Self { program, idle: Mutex::new(Vec::new()) }
    }

    /// Starts some now, so that the first work finds them there.
    ///
    /// # Errors
    /// When a process cannot be run.
    pub fn ahead(&self, count: usize) -> io::Result<()> {
        for _ in 0..count.min(MAX_IDLE) {
            let process = self.start()?;
            self.keep(process);
        }
        Ok(())
    }

    /// Has a piece of work done. Blocks at most for `limit`, so it is not for async workers.
    ///
    /// # Errors
    /// When it was not done. A helper that is late is killed; what it does may still happen.
    pub fn run(&self, work: &Work, limit: Duration) -> Result<(), HelperError> {
        let failed = |source| HelperError::Run { program: self.program.path.clone(), source };
        let message = work.encode().map_err(failed)?;
        let idle = self.idle.lock().pop();
        let mut process = match idle {
            Some(process) => process,
            None => self.start().map_err(failed)?,
        };
        let work = || work.clone();
        match process.ask(&message, limit) {
            Asked::Errno(errno) => {
                self.keep(process);
                if errno == 0 {
                    return Ok(());
                }
                Err(HelperError::Work { work: work(), source: io::Error::from_raw_os_error(errno) })
            }
            Asked::Late => {
                process.end();
                Err(HelperError::Late { work: work(), limit })
            }
            Asked::Ended(source) => {
                process.end();
                Err(HelperError::Ended { work: work(), source })
            }
        }
    }

    fn start(&self) -> io::Result<Process> {
        let mut command = Command::new(&self.program.path);
        command.arg0(&self.program.name).args(&self.program.words).current_dir("/");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(to), Some(from)) => Ok(Process { child, to, from }),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn keep(&self, process: Process) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push(process);
        } else {
            drop(idle);
            process.end();
        }
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        for process in self.idle.get_mut().drain(..) {
            process.end();
        }
    }
}

impl Process {
    fn ask(&mut self, message: &[u8], limit: Duration) -> Asked {
        if let Err(error) = self.to.write_all(message) {
            return Asked::Ended(error);
        }
        match is_readable_within(&self.from, limit) {
            Ok(true) => {}
            Ok(false) => return Asked::Late,
            Err(error) => return Asked::Ended(error),
        }
        let mut errno = [0; 4];
        match self.from.read_exact(&mut errno) {
            Ok(()) => Asked::Errno(i32::from_ne_bytes(errno)),
            Err(error) => Asked::Ended(error),
        }
    }

    /// Ends it, and waits for that elsewhere: it may be waiting in the kernel, which nobody here wants to do with it.
    fn end(self) {
        let Self { mut child, to, from } = self;
        drop((to, from));
        let _ = child.kill(); // it may have ended
        let reaper = thread::Builder::new().name("helper-end".to_owned()).spawn(move || child.wait());
        if let Err(error) = reaper {
            tracing::warn!(%error, "a killed helper process stays a zombie");
        }
    }
}

/// Does work as it comes on standard input, until nobody is there any more. The helper process is this.
pub fn serve() {
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    while let Ok(work) = Work::receive(&mut input) {
        let done = match work {
            Some(work) => perform::perform(&work),
            None => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        if work::answer(&mut output, &done).is_err() {
            return;
        }
    }
}

fn is_readable_within(from: &ChildStdout, limit: Duration) -> io::Result<bool> {
    let end = Instant::now().checked_add(limit);
    let mut polled = [PollFd::new(from, PollFlags::IN)];
    loop {
        let rest = end.map(|end| end.saturating_duration_since(Instant::now()));
        let rest = rest.and_then(|rest| Timespec::try_from(rest).ok());
        match poll(&mut polled, rest.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(words: &[&str]) -> Helpers {
        let words = words.iter().map(OsString::from).collect();
        Helpers::new(Program { path: "/bin/sh".into(), words, name: "helper".into() })
    }

    fn work() -> Work {
        Work::Prime { mountpoint: "/".into() }
    }

    #[test]
    fn the_reason_of_a_failure_comes_back_and_the_process_is_used_again() {
        // It says EBUSY, ENOENT, and then nothing any more.
        let helpers = program(&[
            "-c",
            r"head -c 12 >/dev/null; printf '\020\0\0\0'; head -c 12 >/dev/null; printf '\002\0\0\0'",
        ]);
        for errno in [libc::EBUSY, libc::ENOENT] {
            let failed = helpers.run(&work(), Duration::from_mins(1)).unwrap_err();
            assert_eq!(failed.refusal().and_then(io::Error::raw_os_error), Some(errno));
        }
        let ended = helpers.run(&work(), Duration::from_mins(1));
        assert!(matches!(ended, Err(HelperError::Ended { .. })), "{ended:?}");
    }

    #[test]
    fn late_work_is_given_up() {
        let helpers = program(&["-c", "exec sleep 60"]);
        let late = helpers.run(&work(), Duration::from_millis(50));
        assert!(matches!(late, Err(HelperError::Late { .. })));
        assert!(helpers.idle.lock().is_empty());
    }

    #[test]
    fn a_program_that_is_not_there_is_told() {
        let helpers = Helpers::new(Program { path: "/nowhere".into(), words: Vec::new(), name: "x".into() });
        assert!(matches!(helpers.run(&work(), Duration::from_secs(1)), Err(HelperError::Run { .. })));
    }
}
