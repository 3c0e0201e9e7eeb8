//! The bytes of a blob from the registry to a thread that reads them: several ranged requests ahead, in order, hashed
//! on the way.
//!
//! The channel between the two sides is bounded; when the reader goes away the fetching ends, and when the fetching
//! fails the reader gets an error.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt, stream};
use soci_core::digest::{Digest, Hasher};
use soci_core::registry::{FetchError, RangeFetcher};
use soci_core::units::ByteRange;
use tokio::sync::mpsc;

/// The consecutive ranges of `chunk` bytes that make up `size` bytes.
fn chunks(size: u64, chunk: u64) -> impl Iterator<Item = ByteRange> {
    let chunk = chunk.max(1);
    (0..size.div_ceil(chunk)).map(move |index| {
        let start = index * chunk;
        ByteRange::new(start, start.saturating_add(chunk).min(size))
    })
}

/// The whole blob in pieces, in order, with `ahead` requests in flight.
pub(super) fn blob(
    fetcher: RangeFetcher,
    size: u64,
    chunk: u64,
    ahead: usize,
) -> impl Stream<Item = Result<Vec<Bytes>, FetchError>> {
    let fetch = move |range| {
        let fetcher = fetcher.clone();
        async move {
            let mut body = fetcher.fetch(range).await?;
            let mut pieces = Vec::new();
            while let Some(piece) = body.chunk().await? {
                pieces.push(piece);
            }
            Ok(pieces)
        }
    };
    stream::iter(chunks(size, chunk)).map(fetch).buffered(ahead.max(1))
}

/// Sends the pieces of a blob until it ends, fails, or nobody reads any more.
pub(super) async fn pump(
    blob: impl Stream<Item = Result<Vec<Bytes>, FetchError>>,
    sender: mpsc::Sender<Bytes>,
) -> Result<(), FetchError> {
    let mut blob = std::pin::pin!(blob);
    while let Some(pieces) = blob.next().await {
        for piece in pieces? {
            if sender.send(piece).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The reading side: a blocking [`Read`] that hashes what arrives.
#[derive(Debug)]
pub(super) struct BlobReader {
    receiver: mpsc::Receiver<Bytes>,
    current: Bytes,
    hasher: Hasher,
    received: u64,
    size: u64,
}

impl BlobReader {
    /// Reads what the other side of the channel sends; `size` bytes make the blob complete.
    pub(super) fn new(receiver: mpsc::Receiver<Bytes>, size: u64) -> Self {
        Self { receiver, current: Bytes::new(), hasher: Hasher::new(), received: 0, size }
    }

    /// The next bytes without taking them: at least `wanted` of them unless the blob ends before.
    pub(super) fn peek(&mut self, wanted: usize) -> io::Result<&[u8]> {
        while self.current.len() < wanted {
            match self.receiver.blocking_recv() {
                Some(piece) => {
                    self.received += piece.len() as u64;
                    self.hasher.update(&piece);
                    let joined = || [&self.current[..], &piece[..]].concat().into();
                    self.current = if self.current.is_empty() { piece } else { joined() };
                }
                None if self.received == self.size => break,
                None => {
                    let kind = io::ErrorKind::UnexpectedEof;
                    return Err(io::Error::new(kind, "the registry stopped sending"));
                }
            }
        }
        Ok(&self.current)
    }

    /// Reads the rest, and gives the digest of everything.
    pub(super) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.finish())
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.peek(1)?.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_blob_once() {
        for (size, chunk) in [(0, 4), (1, 4), (4, 4), (5, 4), (10, 3), (7, u64::MAX)] {
            let mut next = 0;
            for range in chunks(size, chunk) {
                assert_eq!(range.start, next);
                assert!(!range.is_empty() && range.len() <= chunk);
                next = range.end;
            }
            assert_eq!(next, size);
        }
    }

    #[test]
    fn a_blob_that_stops_early_is_an_error_and_a_whole_one_is_hashed() {
        for (sent, whole) in [(&b"ab"[..], false), (b"abc", true)] {
            let (sender, receiver) = mpsc::channel(8);
            sender.try_send(Bytes::from_static(sent)).unwrap();
            drop(sender);
            let digest = BlobReader::new(receiver, 3).finish();
            assert_eq!(digest.ok(), whole.then(|| Digest::of(sent)));
        }
    }
}
