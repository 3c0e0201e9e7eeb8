//! A body in pieces of the reader's choice.
//!
//! [`Pieces`] owns the body and what of it has arrived and was not taken yet.

use bytes::{Buf as _, Bytes};

use super::error::FetchError;
use super::range::RangeBody;

/// The bytes of a body, one after the other.
#[derive(Debug)]
pub struct Pieces {
    body: RangeBody,
    rest: Bytes,
}

impl Pieces {
    /// All of `body`.
    pub const fn new(body: RangeBody) -> Self {
        Self { body, rest: Bytes::new() }
    }

    /// Adds the next `length` bytes to `into`; `arrived` is told of bytes as they come. `false`: the body has ended before.
    ///
    /// # Errors
    /// Those of [`RangeBody::chunk`].
    pub async fn take(
        &mut self,
        mut length: usize,
        into: &mut Vec<u8>,
        mut arrived: impl FnMut(usize),
    ) -> Result<bool, FetchError> {
        while length > 0 {
            if self.rest.is_empty() {
                let Some(chunk) = self.body.chunk().await? else { return Ok(false) };
                arrived(chunk.len());
                self.rest = chunk;
            }
            let now = self.rest.len().min(length);
            into.extend_from_slice(&self.rest[..now]);
            self.rest.advance(now);
            length -= now;
        }
        Ok(true)
    }
}
