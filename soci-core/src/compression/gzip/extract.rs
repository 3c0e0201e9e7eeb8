//! From a checkpoint on: compressed bytes in, plain bytes out.
//!
//! [`Extractor`] owns an inflate stream and an output buffer. Invariants: exactly the wanted number of bytes comes
//! out, or an error; every step takes input or gives output, so it always ends. The checksum of the member that the
//! checkpoint lies in is not checked (its start was not seen): callers check the span's digest.

use std::io;

use super::checkpoint::Checkpoint;
use super::inflate::{Framing, InflateError, Inflater};

const BUFFER: usize = 128 << 10;

/// CRC-32 and length behind the deflate data of a gzip member.
const TRAILER: u64 = 8;

/// Why decompression of a span stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Damaged data.
    Damaged(InflateError),
    /// The receiver of plain bytes refused.
    Sink(io::Error),
}

/// Decompresses from one checkpoint.
#[derive(Debug)]
pub(crate) struct Extractor {
    inflater: Inflater,
    buffer: Box<[u8]>,
    /// Plain bytes still wanted.
    wanted: u64,
    /// Bits of the first input byte to use, until it came.
    first_bits: u8,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the member of the checkpoint, whose header was not seen.
    First,
    /// Skipping that member's trailer; so many bytes are left.
    Trailer(u64),
    /// In a later member; `true` when it has just ended.
    Later(bool),
}

impl Extractor {
    /// Starts at `checkpoint`, to give `wanted` bytes.
    pub(crate) fn new(checkpoint: &Checkpoint<&[u8]>, wanted: u64) -> Result<Self, InflateError> {
        let mut inflater = Inflater::new(Framing::Raw);
        inflater.set_window(checkpoint.window)?;
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Ok(Self { inflater, buffer, wanted, first_bits: checkpoint.bits, state: State::First })
    }

    /// Plain bytes that are still wanted.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Takes the next compressed bytes, the first of them at [`Checkpoint::start`]; gives what they hold to `sink`.
    /// Input behind the last wanted byte is ignored.
    pub(crate) fn push(
        &mut self,
        mut input: &[u8],
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Stop> {
        if self.first_bits > 0 {
            let Some((&byte, rest)) = input.split_first() else { return Ok(()) };
            let bits = std::mem::take(&mut self.first_bits);
            self.inflater.prime(bits, byte >> (8 - bits)).map_err(Stop::Damaged)?;
            input = rest;
        }
        while self.wanted > 0 {
            if let State::Trailer(left) = self.state {
                let skipped = left.min(input.len() as u64);
                input = &input[skipped as usize..];
                self.state =
                    if left == skipped { State::Later(true) } else { State::Trailer(left - skipped) };
            }
            if self.state == State::Later(true) && !input.is_empty() {
                self.inflater.reset(Framing::Gzip);
                self.state = State::Later(false);
            }
            if matches!(self.state, State::Trailer(_) | State::Later(true)) {
                return Ok(());
            }
            let room = self.buffer.len().min(usize::try_from(self.wanted).unwrap_or(usize::MAX));
            let step = self.inflater.step(input, &mut self.buffer[..room], false).map_err(Stop::Damaged)?;
            input = &input[step.consumed..];
            self.wanted -= step.produced as u64;
            if step.produced > 0 {
                sink(&self.buffer[..step.produced]).map_err(Stop::Sink)?;
            }
            if step.finished {
                let first = self.state == State::First;
                self.state = if first { State::Trailer(TRAILER) } else { State::Later(true) };
            } else if step.produced < room {
                // Room was left, so the input is used up.
                return Ok(());
            }
        }
        Ok(())
    }
}
