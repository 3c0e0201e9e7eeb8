//! One pass over a gzip layer: plain bytes and block boundaries, in order.
//!
//! [`Scanner`] owns the inflate stream and a buffer of the last output. Invariant: `total_in` and `total_out`
//! count over all members, and the 32 KiB before `total_out` are always in the buffer.

use super::checkpoint::WINDOW;
use super::inflate::{Framing, InflateError, Inflater};

/// Room for output behind the window; so large that moving the window, and leaving the inner loop, cost little.
const ROOM: usize = 736 << 10;

/// Why a layer blob is not a whole gzip file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GzipError {
    /// Damaged data.
    #[error("gzip data is damaged at compressed offset {offset}")]
    Damaged {
        /// Compressed bytes consumed before the damage was seen.
        offset: u64,
        /// What zlib said.
        #[source]
        source: InflateError,
    },
    /// Bytes after a member that do not start another one, and are not zeros up to the end.
    #[error("gzip data is followed by bytes that are no gzip member, at compressed offset {offset}")]
    TrailingBytes {
        /// Offset of the first of them.
        offset: u64,
    },
    /// The blob ends inside of a member.
    #[error("gzip data ends early, at compressed offset {offset}")]
    Truncated {
        /// Length of the blob.
        offset: u64,
    },
}

/// What the scanner came across.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// All input was taken.
    NeedInput,
    /// This much input was consumed, and gave these bytes.
    Progress { consumed: usize, plain: &'a [u8], boundary: Option<u8> },
}

/// A decompressor of a whole multi-member gzip file that stops between blocks.
#[derive(Debug)]
pub(crate) struct Scanner {
    inflater: Inflater,
    buffer: Box<[u8]>,
    /// End of the valid bytes in `buffer`.
    end: usize,
    total_in: u64,
    total_out: u64,
    state: State,
    /// Where the present member starts.
    member_start: u64,
    /// How much there was before it.
    member_out: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Inside of a member; `true` once its header was read.
    Member(bool),
    /// Between members: more input means another member.
    Between,
    /// In zeros behind the last member, which gzip too passes over.
    Padding,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self {
            inflater: Inflater::new(Framing::Gzip),
            buffer: vec![0; WINDOW + ROOM].into_boxed_slice(),
            end: WINDOW,
            total_in: 0,
            total_out: 0,
            state: State::Member(false),
            member_start: 0,
            member_out: 0,
        }
    }

    /// Compressed bytes consumed.
    pub(crate) fn total_in(&self) -> u64 {
        self.total_in
    }

    /// Plain bytes produced.
    pub(crate) fn total_out(&self) -> u64 {
        self.total_out
    }

    /// The last 32 KiB of output, zeros in front when there was less.
    pub(crate) fn window(&self) -> &[u8] {
        &self.buffer[self.end - WINDOW..self.end]
    }

    /// How many of the last bytes of [`Scanner::window`] the present member gave: it cannot refer to others.
    pub(crate) fn reach(&self) -> usize {
        usize::try_from(self.total_out - self.member_out).unwrap_or(WINDOW).min(WINDOW)
    }

    /// Goes on with `input`, the bytes after those consumed so far, up to the next event. Ends of blocks are told except
    /// in the next `free` plain bytes: not to stop there is worth a twentieth of the time.
    pub(crate) fn step(&mut self, input: &[u8], free: u64) -> Result<Event<'_>, GzipError> {
        if input.is_empty() {
            return Ok(Event::NeedInput);
        }
        if self.state == State::Between {
            self.member_start = self.total_in;
            if input[0] == 0 {
                self.state = State::Padding;
            } else {
                self.inflater.reset(Framing::Gzip);
                self.member_out = self.total_out;
                self.state = State::Member(false);
            }
        }
        if self.state == State::Padding {
            let zeros = input.iter().position(|&byte| byte != 0).unwrap_or(input.len());
            if zeros == 0 {
                return Err(GzipError::TrailingBytes { offset: self.member_start });
            }
            self.total_in += zeros as u64;
            return Ok(Event::Progress { consumed: zeros, plain: &[], boundary: None });
        }
        if self.end == self.buffer.len() {
            self.buffer.copy_within(self.end - WINDOW.., 0);
            self.end = WINDOW;
        }
        let start = self.end;
        let room = self.buffer.len() - start;
        let end =
            start + if free == 0 { room } else { usize::try_from(free).map_or(room, |free| free.min(room)) };
        // Stopping behind a header tells bytes that are no member from a member that is damaged.
        let stop = free == 0 || self.state == State::Member(false);
        let step = self.inflater.step(input, &mut self.buffer[start..end], stop).map_err(|source| {
            if self.member_start > 0 && self.state == State::Member(false) {
                GzipError::TrailingBytes { offset: self.member_start }
            } else {
                GzipError::Damaged { offset: self.total_in, source }
            }
        })?;
        self.end += step.produced;
        self.total_in += step.consumed as u64;
        self.total_out += step.produced as u64;
        if step.finished {
            self.state = State::Between;
        } else if step.boundary.is_some() || step.produced > 0 {
            self.state = State::Member(true);
        }
        let plain = &self.buffer[start..self.end];
        let boundary = step.boundary.filter(|_| free == 0);
        Ok(Event::Progress { consumed: step.consumed, plain, boundary })
    }

    /// Declares the end of the input.
    pub(crate) fn finish(&self) -> Result<(), GzipError> {
        match self.state {
            State::Between | State::Padding => Ok(()),
            State::Member(false) if self.member_start > 0 => {
                Err(GzipError::TrailingBytes { offset: self.member_start })
            }
            State::Member(_) => Err(GzipError::Truncated { offset: self.total_in }),
        }
    }
}
