//! The two standard streams. Every line of every command goes through here: `out!` for results,
//! `say!` for all else, [`Results`] for what is long, [`Passing`] for what a workload writes.
//!
//! Owns what is known of the streams: whether the reader of the results is gone, and which bars are drawn. What must always
//! hold: a closed pipe does not interrupt the running work, and the exit code reports it; lines
//! never meet bars; `println!` and its kin are denied in this crate, because they panic in both cases.

use std::{
    io::{self, BufWriter, IsTerminal, Write},
    process::ExitCode,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use indicatif::{MultiProgress, ProgressDrawTarget};

use crate::error;

/// What a shell says of a program that SIGPIPE has ended, which is what other tools do when their reader goes away.
const READER_GONE: u8 = 141;

/// The first failure of standard output, after which nothing more is written there.
static FAILED: OnceLock<io::Error> = OnceLock::new();
/// The bars on the terminal, if there are any.
static BARS: Mutex<Option<MultiProgress>> = Mutex::new(None);
/// Whether a workload has left a line on the terminal unfinished.
static UNFINISHED: AtomicBool = AtomicBool::new(false);

/// Writes a line of results.
macro_rules! out {
    ($($words:tt)*) => { $crate::output::stream::results(&::std::format!("{}\n", ::std::format_args!($($words)*))) };
}

/// Writes a line that is no result: a warning, a note, an error, a summary.
macro_rules! say {
    ($($words:tt)*) => { $crate::output::stream::remarks(&::std::format!("{}\n", ::std::format_args!($($words)*))) };
}

/// Writes lines of results as they are.
pub(crate) fn results(text: &str) {
    around(|| {
        let _ = Results.write_all(text.as_bytes()); // kept, and told by the exit code
    });
}

/// Writes lines to standard error as they are. If nobody can read them there is nobody to tell.
pub(crate) fn remarks(text: &str) {
    around(|| {
        let mut stream = io::stderr().lock();
        if UNFINISHED.swap(false, Ordering::Relaxed) {
            let _ = stream.write_all(b"\n");
        }
        let _ = stream.write_all(text.as_bytes());
    });
}

/// Standard output for results that are written piece by piece. An error ends the command: [`exit`] knows it again.
#[derive(Debug)]
pub(crate) struct Results;

impl Results {
    /// For what is long.
    pub(crate) fn buffered() -> BufWriter<Self> {
        BufWriter::with_capacity(64 << 10, Self)
    }
}

impl Write for Results {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        noted(io::stdout().lock().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        noted(io::stdout().lock().flush())
    }
}

/// Remembers the first failure, and gives it again ever after.
fn noted<T>(outcome: io::Result<T>) -> io::Result<T> {
    if let Some(earlier) = FAILED.get() {
        return Err(earlier.kind().into());
    }
    outcome.inspect_err(|error| {
        if error.kind() != io::ErrorKind::Interrupted {
            let kept = error.raw_os_error().map_or(error.kind().into(), io::Error::from_raw_os_error);
            let _ = FAILED.set(kept); // another thread was first
        }
    })
}

/// One of our streams for what a workload writes. The workload does not learn that the reader is gone: it goes on, and so
/// does its recording.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Passing {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Write for Passing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let terminal = match self {
            Self::Out => io::stdout().is_terminal(),
            Self::Err => io::stderr().is_terminal(),
        };
        let write = || {
            let _ = match self {
                Self::Out => Results.write_all(bytes).and_then(|()| Results.flush()),
                Self::Err => io::stderr().lock().write_all(bytes),
            };
        };
        match drawn() {
            Some(bars) if terminal => {
                let _ = bars.clear();
                write();
                // A bar on a line that the workload has not finished would be drawn over it.
                let unfinished = bytes.last().is_some_and(|last| *last != b'\n');
                UNFINISHED.store(unfinished, Ordering::Relaxed);
                bars.set_draw_target(if unfinished {
                    ProgressDrawTarget::hidden()
                } else {
                    ProgressDrawTarget::stderr()
                });
            }
            _ => write(),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error for the log.
#[derive(Debug)]
pub(crate) struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        remarks(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where bars are drawn from now on; lines go around them. `None`: standard error is no terminal.
pub(super) fn bars() -> Option<MultiProgress> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let mut bars = BARS.lock().unwrap_or_else(PoisonError::into_inner);
    Some(bars.get_or_insert_with(MultiProgress::new).clone())
}

/// The bars, without their lock: a write may wait for a reader.
fn drawn() -> Option<MultiProgress> {
    BARS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn around(write: impl FnOnce()) {
    match drawn() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// Whether colours are wanted on a stream: it is a terminal, and nobody said no.
pub(crate) fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Lets [`exit`] tell of a reader that was met by another way than standard output.
pub(crate) fn reader_is_gone() {
    let _ = FAILED.set(io::ErrorKind::BrokenPipe.into()); // or an earlier failure
}

/// Whether standard output takes no more.
pub(crate) fn has_failed() -> bool {
    FAILED.get().is_some()
}

/// Whether a failure is that of standard output, of which [`exit`] tells.
pub(crate) fn is_ours(error: &anyhow::Error) -> bool {
    FAILED.get().is_some_and(|kept| {
        let io = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
        io.map(io::Error::kind).any(|kind| kind == kept.kind())
    })
}

/// The exit code of a command that ended with `code`: if it did well but its results did not arrive, that counts.
pub(crate) fn exit(code: ExitCode) -> ExitCode {
    let _ = Results.flush();
    match FAILED.get() {
        Some(error) if code == ExitCode::SUCCESS && error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::from(READER_GONE)
        }
        Some(error) if code == ExitCode::SUCCESS => {
            say!("soci: cannot write to standard output: {}", error::words_of(error));
            ExitCode::FAILURE
        }
        _ => code,
    }
}
