//! Bytes of a blob as they arrive.
//!
//! A [`RangeBody`] owns one transfer. A server that answers a request for a part with the whole blob is asked once more (some
//! do so while they fetch it themselves), then the whole is read and the part cut out. Where nothing comes for a while, or
//! next to nothing, the rest is asked for a second time, too (`hedge`), if the client does so.
//! Invariants: every byte handed on stands at the offset it was asked for, as far as the server's headers tell (digests are
//! the caller's to check); a body ends exactly at the end of its range or with an error; what was received is never asked for
//! again.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout};

use super::error::{FetchError, RegistryError, printable};
use super::hedge::race;
use super::hosts::Endpoint;
use super::partial::{Accepted, Want};
use super::reply::Reply;
use super::retry::Budget;
use super::source::{ASKED_FOR_PART, BlobSource, MAX_SKIP};
use super::traffic::RequestKind;
use crate::units::ByteRange;

/// A body that brings fewer bytes a second drips.
const DRIP: f64 = 32.0 * 1024.0;

/// An answer, and which mirror has given it; `None`: the registry itself.
type Answer = (Reply, Accepted, Option<Endpoint>);

/// What comes next of a body, and the answer that it is from, if that is another one.
type Next = (Option<Box<Answer>>, Option<Bytes>);

/// Bytes of a blob as they arrive.
///
/// A broken transfer is taken up again at the offset reached, as long as the retry budget lasts. Dropping
/// the body ends the transfer.
#[derive(Debug)]
pub struct RangeBody {
    source: Arc<BlobSource>,
    /// What is still wanted: `start` is the offset of the next byte.
    want: Want,
    budget: Budget,
    reply: Option<Reply>,
    skip: u64,
    /// Answers that were the whole blob in place of a part far inside, and were thrown away.
    refused: usize,
    /// Mirrors that have answered.
    mirrors: Vec<Endpoint>,
    /// Troubles that ended with another request.
    hedged: u32,
    /// How long bytes were waited for, and how many came in that time, since it was last looked whether the body drips.
    pace: (Duration, usize),
}

/// Who has given the bytes of a body.
#[derive(Debug, Clone)]
pub struct Giver {
    source: Arc<BlobSource>,
    mirrors: Vec<Endpoint>,
}

impl Giver {
    /// Says that the bytes were not the blob's. `true`: a mirror is to blame, and is not asked again soon, so that another
    /// attempt asks somebody else.
    pub fn distrust(&self) -> bool {
        let to_blame = self.source.distrust(&self.mirrors);
        if to_blame {
            let mirrors: Vec<_> = self.mirrors.iter().map(|mirror| mirror.host.clone()).collect();
            tracing::warn!(
                mirrors = mirrors.join(", "),
                blob = self.source.name(),
                "wrong bytes from a mirror"
            );
        }
        to_blame
    }
}

impl RangeBody {
    pub(super) async fn open(source: Arc<BlobSource>, want: Want) -> Result<Self, RegistryError> {
        let budget = source.transport().budget();
        let mut body = Self {
            source,
            want,
            budget,
            reply: None,
            skip: 0,
            refused: 0,
            mirrors: Vec::new(),
            hedged: 0,
            pace: Default::default(),
        };
        body.ensure_reply().await?;
        Ok(body)
    }

    /// A whole blob of unknown size.
    pub(crate) async fn open_whole(source: Arc<BlobSource>) -> Result<Self, RegistryError> {
        let want = Want { kind: RequestKind::Blob, start: 0, end: None, size: None, max_skip: u64::MAX };
        Self::open(source, want).await
    }

    /// A whole blob of this size, asked for as a part.
    pub(crate) async fn open_all(source: Arc<BlobSource>, size: u64) -> Result<Self, RegistryError> {
        let (kind, end, size) = (RequestKind::Blob, Some(size), Some(size));
        Self::open(source, Want { kind, start: 0, end, size, max_skip: u64::MAX }).await
    }

    /// Who has given the bytes up to here.
    pub fn giver(&self) -> Giver {
        Giver { source: Arc::clone(&self.source), mirrors: self.mirrors.clone() }
    }

    /// Offset in the blob of the next byte.
    pub fn position(&self) -> u64 {
        self.want.start
    }

    /// Bytes still to come; `None` when the server did not say how long the blob is.
    pub fn remaining(&self) -> Option<u64> {
        Some(self.want.end?.saturating_sub(self.want.start))
    }

    /// The next bytes, never empty; `None` at the end of the range. May be cancelled and called again without
    /// losing bytes.
    ///
    /// # Errors
    /// Those of [`RegistryError`]; transient ones only after the retry budget is used up.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let failure = match self.read_piece().await {
                Ok(piece) => return Ok(piece),
                Err(failure) => failure,
            };
            self.reply = None;
            self.source.transport().pause(failure, &mut self.budget).await?;
        }
    }

    /// All that is still to come, in memory: for ranges whose length the caller has limited.
    ///
    /// # Errors
    /// Those of [`RangeBody::chunk`].
    pub async fn collect(self) -> Result<Vec<u8>, FetchError> {
        self.collect_from().await.map(|(bytes, _)| bytes)
    }

    /// The same, and who has given it.
    ///
    /// # Errors
    /// Those of [`RangeBody::chunk`].
    pub async fn collect_from(mut self) -> Result<(Vec<u8>, Giver), FetchError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok((bytes, self.giver()))
    }

    /// Makes sure that there is an answer to read from, unless nothing is left to read.
    async fn ensure_reply(&mut self) -> Result<(), RegistryError> {
        while self.reply.is_none() && self.remaining() != Some(0) {
            let want = self.want;
            let (source, after) = (Arc::clone(&self.source), self.hedged_after());
            // In a box: whoever waits for a blob would have it in its own future otherwise.
            let first = Box::pin(async { Ok(Box::new(source.request(want).await?)) });
            let another = || {
                rival(&source, |source| Box::pin(async move { Ok(Box::new(source.request(want).await?)) }))
            };
            let answer = race(first, after, another).await.map(|answer| *answer);
            match answer {
                Ok((_, accepted, _))
                    if accepted.skip > MAX_SKIP
                        && want.kind == RequestKind::Range
                        && self.refused + 1 < ASKED_FOR_PART =>
                {
                    self.refused += 1;
                    self.source.transport().traffic.count_retry();
                }
                Ok((reply, accepted, mirror)) => {
                    if accepted.skip > MAX_SKIP {
                        let (blob, skip) = (self.source.name(), accepted.skip);
                        tracing::warn!(
                            blob,
                            skip,
                            "the server gives no part of the blob: it is read from its beginning"
                        );
                    }
                    self.follow((reply, accepted, mirror));
                }
                Err(RegistryError::Status { url, status: 416, .. }) => {
                    let range = ByteRange::new(want.start, want.end.unwrap_or(u64::MAX));
                    return Err(RegistryError::RangeNotSatisfiable { url, range });
                }
                Err(error) => self.source.transport().pause(error, &mut self.budget).await?,
            }
        }
        Ok(())
    }

    async fn read_piece(&mut self) -> Result<Option<Bytes>, RegistryError> {
        self.ensure_reply().await?;
        while self.reply.is_some() {
            let Some(mut piece) = self.next_piece().await? else {
                if self.want.end.is_none() && self.skip == 0 {
                    self.want.end = Some(self.want.start);
                    return Ok(None);
                }
                let url =
                    self.reply.as_ref().map_or_else(|| self.source.name(), |reply| printable(reply.url()));
                return Err(RegistryError::Truncated { url });
            };
            let skipped = self.skip.min(piece.len() as u64);
            piece.advance(skipped as usize);
            self.skip -= skipped;
            if let Some(end) = self.want.end {
                piece.truncate(usize::try_from(end - self.want.start).unwrap_or(usize::MAX));
            }
            if piece.is_empty() {
                continue;
            }
            self.want.start += piece.len() as u64;
            self.budget.earn(piece.len());
            if self.remaining() == Some(0) {
                self.reply = None;
            }
            return Ok(Some(piece));
        }
        Ok(None)
    }

    /// The next piece of the answer, or of another one that is faster.
    async fn next_piece(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let after = self.hedged_after();
        if let Some(after) = after.filter(|after| self.pace.0 >= *after) {
            let drips = (self.pace.1 as f64) < DRIP * self.pace.0.as_secs_f64();
            self.pace = Default::default();
            if drips && let Some(rival) = rest_again(&self.source, self.want) {
                self.note_hedged();
                let (source, want) = (Arc::clone(&self.source), self.want);
                let rivals = race(rival, Some(after / 4), || rest_again(&source, want));
                // What the first one brings meanwhile waits in the socket.
                if let Ok(Ok((Some(answer), piece))) = timeout(after, rivals).await {
                    self.follow(*answer);
                    return Ok(piece);
                }
            }
        }
        let begun = Instant::now();
        let (source, want) = (Arc::clone(&self.source), self.want);
        let Some(reply) = &mut self.reply else { return Ok(None) };
        let first = async { reply.chunk().await.map(|piece| (None, piece)) };
        let (other, piece) = race(first, after, || rest_again(&source, want)).await?;
        if let Some(other) = other {
            self.note_hedged();
            self.pace = Default::default();
            self.follow(*other);
            return Ok(piece);
        }
        self.pace.0 += begun.elapsed();
        self.pace.1 += piece.as_ref().map_or(0, Bytes::len);
        Ok(piece)
    }

    /// Who goes over to another answer has used a retry.
    fn note_hedged(&mut self) {
        self.hedged += 1;
        self.budget.note();
    }

    /// After how long something is asked for again while its request goes on; `None`: not at all. After a trouble, sooner.
    fn hedged_after(&self) -> Option<Duration> {
        let after = self.source.transport().hedges.after();
        let may = self.want.kind == RequestKind::Range && self.skip == 0 && self.budget.has_left();
        after.filter(|_| may).map(|after| after / (1 << self.hedged.min(2)))
    }

    /// Reads from this answer.
    fn follow(&mut self, (reply, accepted, mirror): Answer) {
        (self.reply, self.skip, self.want.end) = (Some(reply), accepted.skip, accepted.end);
        if let Some(mirror) = mirror.filter(|mirror| !self.mirrors.contains(mirror)) {
            self.mirrors.push(mirror);
        }
    }
}

/// Another request, if the host may have one more.
fn rival<T: 'static>(
    source: &Arc<BlobSource>,
    make: impl FnOnce(Arc<BlobSource>) -> BoxFuture<'static, Result<T, RegistryError>>,
) -> Option<BoxFuture<'static, Result<T, RegistryError>>> {
    let transport = source.transport();
    let permit = transport.hedges.permit(source.host())?;
    transport.traffic.count_retry();
    tracing::debug!(blob = source.name(), "nothing comes: a part is asked for a second time");
    let rival = make(Arc::clone(source));
    Some(Box::pin(async move {
        let _permit = permit;
        rival.await
    }))
}

/// Another request for all that is still wanted, and the first piece of it.
fn rest_again(
    source: &Arc<BlobSource>,
    want: Want,
) -> Option<BoxFuture<'static, Result<Next, RegistryError>>> {
    rival(source, |source| {
        Box::pin(async move {
            let (mut reply, accepted, mirror) = source.request(want).await?;
            let piece = if accepted.skip == 0 { reply.chunk().await? } else { None };
            if piece.is_none() {
                return Err(RegistryError::Truncated { url: printable(reply.url()) });
            }
            Ok((Some(Box::new((reply, accepted, mirror))), piece))
        })
    })
}
