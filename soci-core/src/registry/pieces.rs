//! A body in pieces of the reader's choice.
//!
//! [`Pieces`] owns the body and what of it has arrived and was not taken yet.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};

use super::body::{Giver, RangeBody};
use super::error::FetchError;

/// The bytes of a body, one after the other.
#[derive(Debug)]
pub struct Pieces {
    body: RangeBody,
    rest: VecDeque<Bytes>,
    /// Bytes in `rest`.
    waiting: usize,
}

impl Pieces {
    /// All of `body`.
    pub const fn new(body: RangeBody) -> Self {
        Self { body, rest: VecDeque::new(), waiting: 0 }
    }

    /// Who has given the bytes.
    pub fn giver(&self) -> Giver {
        self.body.giver()
    }

    /// Bytes that have arrived and were not taken yet.
    pub const fn waiting(&self) -> usize {
        self.waiting
    }

    /// Reads on without taking anything; a call that is given up loses nothing. How many bytes have arrived; 0 at the body's
    /// end.
    ///
    /// # Errors
    /// Those of [`RangeBody::chunk`].
    pub async fn read_on(&mut self) -> Result<usize, FetchError> {
        let Some(chunk) = self.body.chunk().await? else { return Ok(0) };
        let length = chunk.len();
        self.waiting += length;
        self.rest.push_back(chunk);
        Ok(length)
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
            let Some(chunk) = self.rest.front_mut() else {
                match self.read_on().await? {
                    0 => return Ok(false),
                    more => arrived(more),
                }
                continue;
            };
            let now = chunk.len().min(length);
            into.extend_from_slice(&chunk[..now]);
            chunk.advance(now);
            if chunk.is_empty() {
                self.rest.pop_front();
            }
            self.waiting -= now;
            length -= now;
        }
        Ok(true)
    }
}
