//! How `record` and `run` end before their time: SIGINT, SIGTERM and SIGHUP at any moment, and `--timeout` while the image
//! is looked up, pulled and unpacked. Once a workload runs, the recording takes the signals and counts the time anew.
//!
//! Owns the listeners, and the threads that read what may never come.

use std::fmt;
use std::io::{self, Read};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::workload_args::limit;
use crate::global::Global;
use crate::output::scratch;

/// How often a thread that waits for something else looks whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Bytes that are read ahead at once from what may never answer.
const CHUNK: usize = 256 << 10;
/// Exit code of what was not ready in time.
const TIMED_OUT: u8 = 4;

/// Signals as they come, and the time that is left.
#[derive(Debug)]
pub(crate) struct Stop {
    signals: Receiver<Signal>,
    came: watch::Receiver<Option<Signal>>,
    deadline: Option<Instant>,
}

/// It is over before anything was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stopped {
    /// By a signal.
    #[error("stopped by {} before the workload ran", Name(*.0))]
    Signal(Signal),
    /// By a signal, after that.
    #[error("stopped by {}", Name(*.0))]
    Later(Signal),
    /// By `--timeout`.
    #[error("the image was not ready to run in time (--timeout)")]
    TimedOut,
}

impl Stopped {
    /// The exit code: that of a shell for a signal.
    fn code(self) -> u8 {
        match self {
            Self::Signal(signal) | Self::Later(signal) => code(signal),
            Self::TimedOut => TIMED_OUT,
        }
    }
}

/// The exit code of what a signal has ended, as a shell reports it.
pub(crate) fn code(signal: Signal) -> u8 {
    128 + signal.as_raw() as u8
}

struct Name(Signal);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Signal::INT => f.write_str("SIGINT"),
            Signal::TERM => f.write_str("SIGTERM"),
            Signal::HUP => f.write_str("SIGHUP"),
            other => write!(f, "signal {}", other.as_raw()),
        }
    }
}

impl Stop {
    /// Listens from now on. Must be called on a tokio runtime.
    pub(crate) fn listen(global: &Global) -> Result<Self> {
        let ((sender, signals), (tell, came)) = (channel(), watch::channel(None));
        let kinds = [
            (SignalKind::interrupt(), Signal::INT),
            (SignalKind::terminate(), Signal::TERM),
            (SignalKind::hangup(), Signal::HUP),
        ];
        for (kind, number) in kinds {
            let mut stream = signal(kind).context("cannot listen for signals")?;
            let (sender, tell) = (sender.clone(), tell.clone());
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    tell.send_replace(Some(number));
                    if sender.send(number).is_err() {
                        break;
                    }
                }
            });
        }
        let deadline = limit(global).and_then(|limit| Instant::now().checked_add(limit));
        Ok(Self { signals, came, deadline })
    }

    /// The signals, for a recording.
    pub(crate) fn signals(&self) -> &Receiver<Signal> {
        &self.signals
    }

    /// Is it over?
    pub(crate) fn check(&self) -> Result<(), Stopped> {
        if let Some(signal) = *self.came.borrow() {
            return Err(Stopped::Signal(signal));
        }
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if late { Err(Stopped::TimedOut) } else { Ok(()) }
    }

    /// Waits for `work`, unless it is over before.
    pub(crate) async fn or<T, E>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T>
    where
        anyhow::Error: From<E>,
    {
        self.check()?;
        let mut came = self.came.clone();
        let signal = async {
            // The listeners live as long as this does.
            let told = came.wait_for(Option::is_some).await.map(|signal| *signal);
            told.ok().flatten().unwrap_or(Signal::TERM)
        };
        let late = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = work => Ok(done?),
            signal = signal => Err(Stopped::Signal(signal).into()),
            () = late => Err(Stopped::TimedOut.into()),
        }
    }

    /// Counts `--timeout` anew.
    pub(crate) fn renew(&mut self, global: &Global) {
        self.deadline = limit(global).and_then(|limit| Instant::now().checked_add(limit));
    }

    /// Waits for work that cannot be cut short. A signal ends the wait, and the work ends with the process.
    pub(crate) fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, outcome) = channel();
        thread::Builder::new().name("work".into()).spawn(move || done.send(work()))?;
        loop {
            if let Some(signal) = *self.came.borrow() {
                scratch::remove_all();
                return Err(Stopped::Later(signal).into());
            }
            match outcome.recv_timeout(LOOK_EVERY) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("the work ended without a result"),
            }
        }
    }

    /// Reads `from` on a thread of its own, so that nobody waits for what never comes.
    pub(crate) fn reading<R: Read + Send + 'static>(&self, mut from: R) -> io::Result<Reading<'_>> {
        let (sender, chunks) = sync_channel(2);
        thread::Builder::new().name("read-ahead".into()).spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK];
                let read = match from.read(&mut chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read,
                };
                let last = !matches!(read, Ok(1..));
                let read = read.map(|length| {
                    chunk.truncate(length);
                    chunk
                });
                if sender.send(read).is_err() || last {
                    return;
                }
            }
        })?;
        Ok(Reading { stop: self, chunks, chunk: io::Cursor::default() })
    }
}

/// Bytes that come from a thread.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    stop: &'a Stop,
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: io::Cursor<Vec<u8>>,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stop.check().map_err(io::Error::other)?;
            let length = self.chunk.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                return Ok(length);
            }
            match self.chunks.recv_timeout(LOOK_EVERY) {
                Ok(chunk) => self.chunk = io::Cursor::new(chunk?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(0), // the last chunk was empty or an error
            }
        }
    }
}

/// The outcome of a command that can be stopped; one that was stopped says so, and ends without waiting for what it had
/// begun.
pub(crate) fn outcome(runtime: Runtime, done: Result<ExitCode>) -> Result<ExitCode> {
    let stopped = done.as_ref().err().and_then(find);
    let Some(stopped) = stopped else { return done };
    // A look-up of a name, or a read, may still be waiting somewhere: the end of the process is its end, too.
    std::mem::forget(runtime);
    say!("soci: {stopped}");
    Ok(ExitCode::from(stopped.code()))
}

/// An error for whoever takes any; one that says that it is over can still be told from others.
pub(crate) fn boxed(error: anyhow::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match find(&error) {
        Some(stopped) => stopped.into(),
        None => error.into(),
    }
}

fn find(error: &anyhow::Error) -> Option<Stopped> {
    error.chain().find_map(|cause| {
        let hidden = cause.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        let hidden = hidden.and_then(|inner| inner.downcast_ref::<Stopped>());
        cause.downcast_ref::<Stopped>().or(hidden).copied()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(deadline: Option<Instant>) -> (Stop, watch::Sender<Option<Signal>>) {
        let (tell, came) = watch::channel(None);
        (Stop { signals: channel().1, came, deadline }, tell)
    }

    #[test]
    fn everything_is_read_until_somebody_stops_it() {
        let (stop, tell) = stop(None);
        let bytes: Vec<u8> = (0..3 * CHUNK + 7).map(|at| (at % 251) as u8).collect();
        let mut read = Vec::new();
        stop.reading(io::Cursor::new(bytes.clone())).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == bytes);

        let (reader, _writer) = io::pipe().unwrap(); // in which nothing ever is
        let mut reading = stop.reading(reader).unwrap();
        tell.send_replace(Some(Signal::TERM));
        let error = reading.read(&mut [0]).unwrap_err();
        let error = anyhow::Error::from(error).context("unpack a layer");
        assert_eq!(find(&error), Some(Stopped::Signal(Signal::TERM)));
        let plain = boxed(error); // as libraries keep it for their cause
        assert_eq!(plain.downcast_ref::<Stopped>(), Some(&Stopped::Signal(Signal::TERM)));
        assert_eq!(Stopped::Signal(Signal::TERM).code(), 143);
    }

    #[tokio::test]
    async fn what_never_comes_is_given_up_in_time_or_by_a_signal() {
        let (stop, _tell) = stop(Some(Instant::now() + Duration::from_millis(20)));
        let never = std::future::pending::<Result<()>>;
        assert_eq!(find(&stop.or(never()).await.unwrap_err()), Some(Stopped::TimedOut));
        assert_eq!(stop.check(), Err(Stopped::TimedOut));
        let (stop, tell) = self::stop(None);
        assert_eq!(stop.or(async { anyhow::Ok(7) }).await.unwrap(), 7);
        tell.send_replace(Some(Signal::HUP));
        assert_eq!(find(&stop.or(never()).await.unwrap_err()), Some(Stopped::Signal(Signal::HUP)));
    }
}
