//! Work on the hidden mount, done by a helper process.
//!
//! A process that waits for an answer of the server inside the kernel cannot be killed before it has it. If the server itself
//! waited so, it could not die, its keeper would not see its end, and no successor would answer. So each piece of work is a
//! short-lived process: a program that calls [`perform`]. It goes on when the server dies and ends when the successor answers.
//!
//! What must always hold: a helper has no descriptor of the server. No state lives here.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::mount;

/// Exit code for words that are no work. No error number of Linux is as high.
const UNKNOWN_WORK: u8 = 255;

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Mounts an image that the connection serves.
    MountImage {
        /// The image's file on the hidden mount.
        image: PathBuf,
        /// An existing directory.
        mountpoint: PathBuf,
        /// Bytes that the kernel reads ahead at most; a page or less is none.
        read_ahead: u32,
    },
    /// Takes a mount out of the directory tree.
    Detach {
        /// The mount.
        mountpoint: PathBuf,
    },
    /// Teaches the kernel which operations the connection does not have.
    Prime {
        /// The hidden mount.
        mountpoint: PathBuf,
    },
}

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
    #[error("helper process failed: {work:?}")]
    Work {
        /// The work.
        work: Work,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The work was not done in time. The process was killed.
    #[error("helper process took more than {limit:?}: {work:?}")]
    Late {
        /// The work.
        work: Work,
        /// The limit.
        limit: Duration,
    },
    /// The process was ended from outside.
    #[error("helper process ended with {status}: {work:?}")]
    Ended {
        /// The work.
        work: Work,
        /// How it ended.
        status: ExitStatus,
    },
}

/// The program that does the work.
#[derive(Clone, Debug)]
pub struct Helper {
    /// The program, which calls [`perform`] with the words behind `words`.
    pub program: PathBuf,
    /// Its first words.
    pub words: Vec<OsString>,
}

impl Helper {
    /// Does a piece of work in a process of its own. Blocks at most for `limit`, so it is not for async workers.
    pub fn run(&self, work: &Work, limit: Duration) -> Result<(), HelperError> {
        let failed = |source| HelperError::Run { program: self.program.clone(), source };
        let mut command = Command::new(&self.program);
        command.args(&self.words).args(work.words()).stdin(Stdio::null()).current_dir("/");
        let mut child = command.spawn().map_err(failed)?;
        if !ends_within(&child, limit).map_err(failed)? {
            // It may be waiting in the kernel, which nobody here wants to do with it.
            let _ = child.kill();
            reap_later(child);
            return Err(HelperError::Late { work: work.clone(), limit });
        }
        let status = child.wait().map_err(failed)?;
        let work = work.clone();
        match status.code() {
            Some(0) => Ok(()),
            Some(errno) => Err(HelperError::Work { work, source: io::Error::from_raw_os_error(errno) }),
            None => Err(HelperError::Ended { work, status }),
        }
    }
}

/// Does the work that the words say, in the helper process. The result is its exit code.
pub fn perform(words: impl IntoIterator<Item = OsString>) -> u8 {
    let words: Vec<_> = words.into_iter().collect();
    let Some(work) = Work::parse(&words) else { return UNKNOWN_WORK };
    let done = match &work {
        Work::MountImage { image, mountpoint, read_ahead } => {
            mount::mount_image(image, mountpoint, *read_ahead)
        }
        Work::Detach { mountpoint } => mount::detach(mountpoint),
        Work::Prime { mountpoint } => mount::prime(mountpoint),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            error.raw_os_error().and_then(|errno| u8::try_from(errno).ok()).unwrap_or(libc::EIO as u8)
        }
    }
}

impl Work {
    fn words(&self) -> Vec<OsString> {
        let words = |verb: &str, paths: &[&Path]| {
            let paths = paths.iter().map(|path| path.as_os_str().to_owned());
            std::iter::once(verb.into()).chain(paths).collect::<Vec<OsString>>()
        };
        match self {
            Self::MountImage { image, mountpoint, read_ahead } => {
                let mut all = words("mount-image", &[image, mountpoint]);
                all.push(read_ahead.to_string().into());
                all
            }
            Self::Detach { mountpoint } => words("detach", &[mountpoint]),
            Self::Prime { mountpoint } => words("prime", &[mountpoint]),
        }
    }

    fn parse(words: &[OsString]) -> Option<Self> {
        let (verb, rest) = words.split_first()?;
        Some(match (verb.to_str()?, rest) {
            ("mount-image", [image, mountpoint, read_ahead]) => Self::MountImage {
                image: image.into(),
                mountpoint: mountpoint.into(),
                read_ahead: read_ahead.to_str()?.parse().ok()?,
            },
            ("detach", [mountpoint]) => Self::Detach { mountpoint: mountpoint.into() },
            ("prime", [mountpoint]) => Self::Prime { mountpoint: mountpoint.into() },
            _ => return None,
        })
    }
}

fn ends_within(child: &Child, limit: Duration) -> io::Result<bool> {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut polled = [PollFd::new(&process, PollFlags::IN)];
    let limit = Timespec::try_from(limit).ok();
    loop {
        match poll(&mut polled, limit.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

fn reap_later(mut child: Child) {
    let reaper = thread::Builder::new().name("helper-end".to_owned()).spawn(move || child.wait());
    if let Err(error) = reaper {
        tracing::warn!(%error, "a killed helper process stays a zombie");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(words: &[&str]) -> Helper {
        Helper { program: "/bin/sh".into(), words: words.iter().map(OsString::from).collect() }
    }

    #[test]
    fn work_survives_the_way_through_a_command_line() {
        let (image, mountpoint) = (PathBuf::from("/a b"), PathBuf::from("/c"));
        for work in [
            Work::MountImage { image, mountpoint: mountpoint.clone(), read_ahead: 65_536 },
            Work::Detach { mountpoint: mountpoint.clone() },
            Work::Prime { mountpoint },
        ] {
            assert_eq!(Work::parse(&work.words()), Some(work));
        }
        assert_eq!(perform(["open".into()]), UNKNOWN_WORK);
    }

    #[test]
    fn the_reason_of_a_failure_comes_back() {
        let work = Work::Detach { mountpoint: "/nowhere".into() };
        assert_eq!(perform(work.words()), libc::ENOENT as u8);
        let failed = program(&["-c", "exit 16"]).run(&work, Duration::from_mins(1));
        assert!(matches!(failed, Err(HelperError::Work { source, .. }) if source.raw_os_error() == Some(16)));
    }

    #[test]
    fn late_work_is_given_up() {
        let work = Work::Prime { mountpoint: "/".into() };
        let late = program(&["-c", "exec sleep 60"]).run(&work, Duration::from_millis(50));
        assert!(matches!(late, Err(HelperError::Late { .. })));
    }
}
