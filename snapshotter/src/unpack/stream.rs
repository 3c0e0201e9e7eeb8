//! The bytes of a blob from the registry to a thread that reads them: several ranged requests ahead, in order, hashed
//! on the way.
//!
//! The channel between the two sides is bounded; when the reader goes away the fetching ends, and when the fetching
//! fails the reader gets an error.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use soci_core::digest::{Digest, Hasher};
use soci_core::registry::{FetchError, RangeBody, RangeFetcher};
use soci_core::units::ByteRange;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The consecutive ranges of `chunk` bytes that make up `size` bytes.
fn chunks(size: u64, chunk: u64) -> impl Iterator<Item = ByteRange> {
    let chunk = chunk.max(1);
    (0..size.div_ceil(chunk)).map(move |index| {
        let start = index * chunk;
        ByteRange::new(start, start.saturating_add(chunk).min(size))
    })
}

/// Room for bytes that are on their way, in the whole node. Who has a [`Share`] of it may hold so many.
#[derive(Clone, Debug)]
pub(super) struct Room {
    kibibytes: Arc<Semaphore>,
    all: u32,
    requests: Arc<Semaphore>,
}

/// Held until the bytes are with their reader.
type Share = Option<OwnedSemaphorePermit>;
/// Held until the bytes are here.
type Turn = Option<OwnedSemaphorePermit>;

impl Room {
    /// Room for so many bytes, and so many requests at a time.
    pub(super) fn new(bytes: u64, requests: Option<usize>) -> Self {
        let all = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).max(1);
        let requests = requests.unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { kibibytes: semaphore(all as usize), all, requests: semaphore(requests) }
    }

    /// Waits for a turn and for room. What is larger than all of it gets all of it. Earlier chunks of a blob ask before later ones, and are
    /// served before them, so that no blob waits for a chunk that has no room.
    async fn share(&self, bytes: u64) -> (Turn, Share) {
        let turn = Arc::clone(&self.requests).acquire_owned().await.ok();
        let share = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.all);
        (turn, Arc::clone(&self.kibibytes).acquire_many_owned(share).await.ok())
    }
}

/// The whole blob in pieces, in order, with `ahead` requests in flight as far as there is room; in one request where the
/// registry gives no parts.
pub(super) fn blob(
    fetcher: RangeFetcher,
    size: u64,
    chunk: u64,
    ahead: usize,
    room: Room,
) -> impl Stream<Item = Result<(Vec<Bytes>, Share), FetchError>> {
    let begin = async move {
        // One after the other: a size is what a manifest says, and may be that of no blob.
        let mut ranges = chunks(size, chunk).peekable();
        let mut first = None;
        if let Some(range) = ranges.next_if(|first| first.end < size && fetcher.gives_parts() != Some(true)) {
            // The header of the answer for the first chunk tells.
            let (turn, share) = room.share(range.len()).await;
            let answer = fetcher.fetch(range).await;
            if answer.is_ok() && fetcher.gives_parts() == Some(false) {
                let pieces = one_after_the_other(fetcher, ByteRange::new(0, size));
                return pieces.map_ok(|pieces| (pieces, None)).boxed();
            }
            first = Some((answer, share, turn));
        }
        let rest = ranges.map(move |range| {
            let (fetcher, room) = (fetcher.clone(), room.clone());
            let fetch = async move {
                let (_turn, share) = room.share(range.len()).await;
                Ok((all(fetcher.fetch(range).await).await?, share))
            };
            fetch.boxed()
        });
        let first = first.map(|(answer, share, turn)| {
            let read = async move {
                let _turn = turn;
                Ok((all(answer).await?, share))
            };
            read.boxed()
        });
        let all = first.into_iter().chain(rest);
        stream::iter(all).buffered(ahead.max(1)).boxed()
    };
    stream::once(begin).flatten()
}

/// The pieces of one answer.
async fn all(answer: Result<RangeBody, FetchError>) -> Result<Vec<Bytes>, FetchError> {
    let (mut body, mut pieces) = (answer?, Vec::new());
    while let Some(piece) = body.chunk().await? {
        pieces.push(piece);
    }
    Ok(pieces)
}

/// The pieces of one answer as they come.
fn one_after_the_other(
    fetcher: RangeFetcher,
    range: ByteRange,
) -> impl Stream<Item = Result<Vec<Bytes>, FetchError>> {
    let body = async move { fetcher.fetch(range).await };
    let pieces = |body: RangeBody| {
        stream::try_unfold(body, |mut body| async move {
            Ok(body.chunk().await?.map(|piece| (vec![piece], body)))
        })
    };
    stream::once(body).map_ok(pieces).try_flatten()
}

/// Sends the pieces of a blob until it ends, fails, or nobody reads any more.
pub(super) async fn pump(
    blob: impl Stream<Item = Result<(Vec<Bytes>, Share), FetchError>>,
    sender: mpsc::Sender<Bytes>,
) -> Result<(), FetchError> {
    let mut blob = std::pin::pin!(blob);
    while let Some(chunk) = blob.next().await {
        let (pieces, _share) = chunk?;
        for piece in pieces {
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

    #[tokio::test]
    async fn what_is_on_its_way_has_a_limit_and_nothing_waits_for_ever() {
        let room = Room::new(8 << 10, None);
        let first = room.share(5 << 10).await;
        let second = tokio::spawn({
            let room = room.clone();
            async move { room.share(4 << 10).await }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        drop(second.await.unwrap());
        assert!(room.share(u64::MAX).await.1.is_some(), "what is larger than all gets all");
        assert_eq!(room.kibibytes.available_permits(), 8);
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
