//! Safe wrapper of the zlib-style inflate of libz-rs-sys: stop at block boundaries, start between two blocks.
//!
//! [`Inflater`] owns one boxed stream. Invariant: the stream was initialised by `inflateInit2_` before anything
//! else uses it and is ended once, on drop; its buffer pointers are set from live slices for each call and are
//! never used between calls. This is the only file of the crate with `unsafe` code: no safe crate offers
//! `Z_BLOCK`, `data_type` and `inflatePrime`.
#![allow(
    unsafe_code,
    reason = "the C-shaped API is the only one that stops at deflate blocks and resumes between them"
)]

use std::ffi::c_int;

use libz_rs_sys::{
    Z_BLOCK, Z_BUF_ERROR, Z_NO_FLUSH, Z_OK, Z_STREAM_END, inflate, inflateEnd, inflateInit2_, inflatePrime,
    inflateReset2, inflateSetDictionary, z_stream, zlibVersion,
};

/// Framing around the deflate data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A gzip member with header and trailer, both checked.
    Gzip,
    /// Deflate data only.
    Raw,
}

impl Framing {
    /// zlib's `windowBits`: 15 bits of window; 16 more mean gzip, a negative number means raw.
    const fn window_bits(self) -> c_int {
        match self {
            Self::Gzip => 15 + 16,
            Self::Raw => -15,
        }
    }
}

/// The data is not deflate data, or a checksum or length in a trailer is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deflate data is damaged (zlib error {0})")]
pub struct InflateError(pub(crate) i32);

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// Input bytes taken.
    pub consumed: usize,
    /// Output bytes written.
    pub produced: usize,
    /// The deflate stream, with its trailer in gzip framing, is complete.
    pub finished: bool,
    /// Set when the step stopped before a block header: the unused bits (0..=7) of the last byte taken. Not set
    /// behind the last block of the stream.
    pub boundary: Option<u8>,
}

/// An inflate stream.
pub(crate) struct Inflater(Box<z_stream>);

// SAFETY: the stream owns its state through pointers that nothing else holds, and every use takes `&mut self`.
unsafe impl Send for Inflater {}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inflater").field("total_in", &self.0.total_in).finish_non_exhaustive()
    }
}

impl Inflater {
    /// A stream at the start of a member.
    pub(crate) fn new(framing: Framing) -> Self {
        let mut stream = Box::<z_stream>::default();
        let size = size_of::<z_stream>() as c_int;
        // SAFETY: `stream` is a valid z_stream with default allocators; the version is the library's own.
        let code = unsafe { inflateInit2_(&raw mut *stream, framing.window_bits(), zlibVersion(), size) };
        assert_eq!(code, Z_OK, "inflate can only fail to start when memory is exhausted");
        Self(stream)
    }

    /// Starts again at the start of a member, without any window.
    pub(crate) fn reset(&mut self, framing: Framing) {
        // SAFETY: the stream was initialised in `new`.
        let code = unsafe { inflateReset2(&raw mut *self.0, framing.window_bits()) };
        debug_assert_eq!(code, Z_OK, "both window sizes are valid");
    }

    /// Feeds the low `bits` (0..=7) of `value` in front of the input of a raw stream.
    pub(crate) fn prime(&mut self, bits: u8, value: u8) -> Result<(), InflateError> {
        // SAFETY: the stream was initialised in `new`.
        check(unsafe { inflatePrime(&raw mut *self.0, c_int::from(bits), c_int::from(value)) })
    }

    /// Sets the output that came before, which a raw stream may refer to. At most 32 KiB count.
    pub(crate) fn set_window(&mut self, window: &[u8]) -> Result<(), InflateError> {
        let length = u32::try_from(window.len()).map_err(|_| InflateError(-2))?;
        // SAFETY: the stream was initialised in `new`; pointer and length are those of a live slice, which is
        // copied during the call.
        check(unsafe { inflateSetDictionary(&raw mut *self.0, window.as_ptr(), length) })
    }

    /// Inflates until the input is used up, the output is full, the member ends or, with `stop_at_blocks`, a
    /// block boundary is reached. A step without progress needs more input or more room.
    pub(crate) fn step(
        &mut self,
        input: &[u8],
        output: &mut [u8],
        stop_at_blocks: bool,
    ) -> Result<Step, InflateError> {
        let available_in = u32::try_from(input.len()).unwrap_or(u32::MAX);
        let available_out = u32::try_from(output.len()).unwrap_or(u32::MAX);
        let stream = &mut *self.0;
        stream.next_in = input.as_ptr();
        stream.avail_in = available_in;
        stream.next_out = output.as_mut_ptr();
        stream.avail_out = available_out;
        let flush = if stop_at_blocks { Z_BLOCK } else { Z_NO_FLUSH };
        // SAFETY: the stream was initialised in `new`; both pointers come from slices that live across the call,
        // with lengths that are at most theirs, and the output slice is exclusively ours.
        let code = unsafe { inflate(&raw mut *stream, flush) };
        if code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR {
            return Err(InflateError(code));
        }
        let finished = code == Z_STREAM_END;
        // data_type: 128 = stopped at a boundary, 64 = in the last block, low bits = unused bits.
        let at_boundary = !finished && stream.data_type & (128 | 64) == 128;
        Ok(Step {
            consumed: (available_in - stream.avail_in) as usize,
            produced: (available_out - stream.avail_out) as usize,
            finished,
            boundary: at_boundary.then_some((stream.data_type & 7) as u8),
        })
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: the stream was initialised in `new` and is not used after this.
        unsafe { inflateEnd(&raw mut *self.0) };
    }
}

fn check(code: c_int) -> Result<(), InflateError> {
    if code == Z_OK { Ok(()) } else { Err(InflateError(code)) }
}
