//! What the kernel side found strange, on its way to our log.
//!
//! Owns the reading end of aya-log's ring buffer. Only there when somebody listens at level debug.

use aya_log::{EbpfLogger, LEVEL};
use log::{Log, Metadata, Record};

/// Anomalies told by the programs.
pub(super) struct Anomalies(Option<EbpfLogger<Forward>>);

impl Anomalies {
    /// The global that switches them on, and what it has to be.
    pub(super) fn level() -> (&'static str, u8) {
        let wanted = tracing::enabled!(tracing::Level::DEBUG);
        (LEVEL, if wanted { aya_log::Level::Debug as u8 } else { 0 })
    }

    /// Takes the ring buffer out of what was loaded.
    pub(super) fn of(programs: &mut aya::Ebpf) -> Self {
        if Self::level().1 == 0 {
            return Self(None);
        }
        match EbpfLogger::init_with_logger(programs, Forward) {
            Ok(logger) => Self(Some(logger)),
            Err(error) => {
                tracing::debug!(%error, "the programs cannot tell of anomalies");
                Self(None)
            }
        }
    }

    /// Passes on what there is.
    pub(super) fn forward(&mut self) {
        if let Some(logger) = &mut self.0 {
            logger.flush();
        }
    }
}

/// From the `log` of aya-log to the `tracing` of everything else.
struct Forward;

impl Log for Forward {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::debug!(program = record.target(), "{}", record.args());
    }

    fn flush(&self) {}
}
