//! Reading blobs: byte ranges of a known blob, and whole blobs.
//!
//! A [`RangeFetcher`] owns the address that the registry redirected to, until that address stops working, and knows
//! which mirrors failed for this blob; a [`RangeBody`] owns one transfer. A server that answers a request for a part with the
//! whole blob is asked once more (some do so while they fetch it themselves), then the whole is read and the part cut out.
//! Invariants: every byte handed on stands at the offset it was asked for, as far
//! as the server's headers tell (digests are the caller's to check); a body ends exactly at the end of its
//! range or with an error; what was received is never asked for again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::header::RANGE;
use parking_lot::Mutex;
use reqwest::Url;
use tokio::time::Instant;

use super::access::{Access, Action};
use super::error::{FetchError, RegistryError, printable};
use super::hosts::{Capabilities, Endpoint};
use super::partial::{Accepted, Want};
use super::remote::Remote;
use super::reply::Reply;
use super::retry::Budget;
use super::traffic::RequestKind;
use super::transport::Transport;
use super::wire::Call;
use crate::digest::Digest;
use crate::units::ByteRange;

/// Bytes in front of a range that are read and thrown away when a server answers with the whole blob.
const MAX_SKIP: u64 = 1 << 20;

/// The same on a server that does not give the part when asked again: what it costs is better than an error in a container.
const MAX_READ_OVER: u64 = 4 << 30;
/// How often a server is asked for a part before it is believed to give none.
const ASKED_FOR_PART: usize = 2;

/// How long a mirror that failed for a blob is not asked for it.
const AVOID: Duration = Duration::from_mins(1);
/// The same for one whose bytes were wrong.
const DISTRUST: Duration = Duration::from_hours(1);

/// Reads ranges of one blob. Clones share the redirect target.
#[derive(Debug, Clone)]
pub struct RangeFetcher {
    source: Arc<BlobSource>,
    size: u64,
}

impl RangeFetcher {
    pub(super) fn new(source: BlobSource, size: u64) -> Self {
        Self { source: Arc::new(source), size }
    }

    /// Digest of the blob.
    pub fn digest(&self) -> Digest {
        self.source.digest
    }

    /// Size of the blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether parts of the blob can be had, as far as requests of this blob, or of others of its server, have told.
    pub fn gives_parts(&self) -> Option<bool> {
        self.source.gives_parts()
    }

    /// The same, asking for the last byte if it is not known. Of a small blob it does not matter: it is read whole at once.
    ///
    /// # Errors
    /// When the registry does not say.
    pub async fn find_out_parts(&self) -> Result<bool, FetchError> {
        if self.size <= MAX_SKIP || self.gives_parts() == Some(true) {
            return Ok(true);
        }
        let (kind, start, end) = (RequestKind::Range, self.size - 1, Some(self.size));
        let want = Want { kind, start, end, size: Some(self.size), max_skip: u64::MAX };
        for _ in 0..ASKED_FOR_PART {
            // The rest of a whole blob is not waited for.
            let (_, accepted, _) = self.source.request(want).await?;
            if accepted.as_part == Some(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Starts to read `range`, which must lie within the blob. Returns when the first response header that
    /// fits is there; an empty range needs no request.
    ///
    /// # Errors
    /// Those of [`RegistryError`]; transient ones only after the retry budget is used up.
    pub async fn fetch(&self, range: ByteRange) -> Result<RangeBody, FetchError> {
        if range.end > self.size {
            let url = self.source.name();
            return Err(RegistryError::RangeNotSatisfiable { url, range });
        }
        let want = Want {
            kind: RequestKind::Range,
            start: range.start,
            end: Some(range.end),
            size: Some(self.size),
            max_skip: MAX_READ_OVER,
        };
        RangeBody::open(Arc::clone(&self.source), want).await
    }
}

/// One blob in one repository, and how it is reached.
#[derive(Debug)]
pub(crate) struct BlobSource {
    remote: Remote,
    digest: Digest,
    choice: Mutex<Choice>,
    /// Held while the redirect is looked up, so that one look-up serves all who wait.
    lookup: tokio::sync::Mutex<()>,
}

/// Who is asked for a blob, and where.
#[derive(Debug, Default)]
struct Choice {
    /// Mirrors that failed for this blob, and until when they are not asked.
    avoided: HashMap<Endpoint, Instant>,
    /// Whether the last part that was asked for came as one.
    gives_parts: Option<bool>,
    /// Where the server asked redirected to last, and which server that was.
    target: Option<(Url, Endpoint)>,
}

impl BlobSource {
    pub(super) fn new(remote: Remote, digest: Digest) -> Self {
        Self { remote, digest, choice: Mutex::default(), lookup: tokio::sync::Mutex::default() }
    }

    fn transport(&self) -> &Transport {
        &self.remote.transport
    }

    /// For error messages.
    fn name(&self) -> String {
        self.remote.blob_name(&self.digest)
    }

    /// Asks the first server that is not avoided, and the next ones at once when a mirror fails.
    /// Tells also which mirror answered; `None`: the registry itself.
    async fn request(&self, want: Want) -> Result<(Reply, Accepted, Option<Endpoint>), RegistryError> {
        let (mirrors, last) = self.remote.route().to(Capabilities::PULL)?;
        for mirror in mirrors {
            if self.avoids(&mirror) || self.transport().resting.has(&mirror) {
                continue;
            }
            match self.request_from(&mirror, want).await {
                Ok((reply, accepted)) => return Ok((reply, accepted, Some(mirror))),
                Err(error) => {
                    self.transport().resting.note(&mirror, &error);
                    self.avoid(mirror, AVOID);
                }
            }
        }
        let (reply, accepted) = self.request_from(&last, want).await?;
        Ok((reply, accepted, None))
    }

    /// Whether parts of the blob can be had, if that is known.
    pub(crate) fn gives_parts(&self) -> Option<bool> {
        let of_blob = self.choice.lock().gives_parts;
        of_blob.or_else(|| {
            let (mirrors, last) = self.remote.route().to(Capabilities::PULL).ok()?;
            let is_asked = |mirror: &&Endpoint| !self.avoids(mirror) && !self.transport().resting.has(mirror);
            let server = mirrors.iter().find(is_asked).unwrap_or(&last);
            self.transport().manners.gives_parts(server).then_some(true)
        })
    }

    fn note_parts(&self, server: &Endpoint, accepted: &Accepted) {
        if let Some(as_part) = accepted.as_part {
            self.choice.lock().gives_parts = Some(as_part);
            self.transport().manners.note_gives_parts(server, as_part);
        }
    }

    fn avoids(&self, mirror: &Endpoint) -> bool {
        self.choice.lock().avoided.get(mirror).is_some_and(|until| *until > Instant::now())
    }

    /// Does not ask a mirror for the blob for so long.
    fn avoid(&self, mirror: Endpoint, time: Duration) {
        let (mut choice, now) = (self.choice.lock(), Instant::now());
        choice.avoided.retain(|_, until| *until > now);
        choice.avoided.insert(mirror, now + time);
    }

    /// Does not ask these mirrors for the blob for a while.
    fn distrust(&self, mirrors: &[Endpoint]) -> bool {
        for mirror in mirrors {
            self.avoid(mirror.clone(), DISTRUST);
        }
        !mirrors.is_empty()
    }

    /// One attempt; a cached redirect target that fails is forgotten, and unless the failure is transient the
    /// server is asked at once.
    async fn request_from(&self, server: &Endpoint, want: Want) -> Result<(Reply, Accepted), RegistryError> {
        let access = &self.remote.access(server, Action::Pull);
        if let Some(outcome) = self.request_from_target(server, access, want).await {
            return outcome;
        }
        // The first requests for a blob wait for the one that finds out where the registry redirects to, but
        // not on a registry that is known to serve its blobs itself.
        let looking_up =
            if self.transport().manners.serves_blobs(server) { None } else { Some(self.lookup.lock().await) };
        if looking_up.is_some()
            && let Some(outcome) = self.request_from_target(server, access, want).await
        {
            return outcome;
        }
        let url = server.url(&self.remote.name, &format!("blobs/{}", self.digest))?;
        let reply = self.transport().attempt(&call(access, url.clone(), want)).await?;
        let accepted = want.check(&reply)?;
        let redirected = *reply.url() != url;
        self.note_parts(server, &accepted);
        self.transport().manners.note_serves_blobs(server, !redirected);
        self.choice.lock().target = redirected.then(|| (reply.url().clone(), server.clone()));
        Ok((reply, accepted))
    }

    async fn request_from_target(
        &self,
        server: &Endpoint,
        access: &Access,
        want: Want,
    ) -> Option<Result<(Reply, Accepted), RegistryError>> {
        let target = self.choice.lock().target.clone().filter(|(_, of)| of == server)?.0;
        let outcome = match self.transport().attempt(&call(access, target.clone(), want)).await {
            Ok(reply) => want.check(&reply).map(|accepted| (reply, accepted)),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(answer) => {
                self.note_parts(server, &answer.1);
                Some(Ok(answer))
            }
            Err(error) => {
                tracing::debug!(%error, "redirect target no longer usable");
                self.forget(&target);
                error.is_transient().then_some(Err(error))
            }
        }
    }

    fn forget(&self, target: &Url) {
        let mut choice = self.choice.lock();
        if choice.target.as_ref().is_some_and(|(cached, _)| cached == target) {
            choice.target = None;
        }
    }
}

fn call(access: &Access, url: Url, want: Want) -> Call {
    let mut call = Call::get(url, want.kind, &access.endpoint.link);
    call.access = Some(access.clone());
    if let Some(header) = want.header() {
        call.headers.insert(RANGE, header);
    }
    call
}

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
            let mirrors: Vec<_> = self.mirrors.iter().map(|mirror| &mirror.host).collect();
            tracing::warn!(?mirrors, blob = self.source.name(), "wrong bytes from a mirror");
        }
        to_blame
    }
}

impl RangeBody {
    async fn open(source: Arc<BlobSource>, want: Want) -> Result<Self, RegistryError> {
        let budget = source.transport().budget();
        let mut body = Self { source, want, budget, reply: None, skip: 0, refused: 0, mirrors: Vec::new() };
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
            match self.source.request(want).await {
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
                    (self.reply, self.skip, self.want.end) = (Some(reply), accepted.skip, accepted.end);
                    if let Some(mirror) = mirror.filter(|mirror| !self.mirrors.contains(mirror)) {
                        self.mirrors.push(mirror);
                    }
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
        let Some(reply) = &mut self.reply else { return Ok(None) };
        loop {
            let Some(mut piece) = reply.chunk().await? else {
                if self.want.end.is_none() && self.skip == 0 {
                    self.want.end = Some(self.want.start);
                    return Ok(None);
                }
                return Err(RegistryError::Truncated { url: printable(reply.url()) });
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
    }
}
