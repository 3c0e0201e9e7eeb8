//! One blob in one repository, and how it is reached.
//!
//! A [`BlobSource`] owns the address that the registry redirected to, until that address stops working, and knows which mirrors
//! failed for this blob.

use std::collections::HashMap;
use std::time::Duration;

use http::header::RANGE;
use parking_lot::Mutex;
use reqwest::Url;
use tokio::time::Instant;

use super::access::{Access, Action};
use super::error::RegistryError;
use super::hosts::{Capabilities, Endpoint};
use super::partial::{Accepted, Want};
use super::remote::Remote;
use super::reply::Reply;
use super::transport::Transport;
use super::wire::Call;
use crate::digest::Digest;

/// Bytes in front of a range that are read and thrown away when a server answers with the whole blob.
pub(super) const MAX_SKIP: u64 = 1 << 20;
/// How often a server is asked for a part before it is believed to give none.
pub(super) const ASKED_FOR_PART: usize = 2;
/// How long a mirror that failed for a blob is not asked for it.
const AVOID: Duration = Duration::from_mins(1);
/// The same for one whose bytes were wrong.
const DISTRUST: Duration = Duration::from_hours(1);

/// One blob in one repository, and how it is reached.
#[derive(Debug)]
pub(crate) struct BlobSource {
    remote: Remote,
    pub(super) digest: Digest,
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

    pub(super) fn transport(&self) -> &Transport {
        &self.remote.transport
    }

    /// The registry host.
    pub(super) fn host(&self) -> &str {
        &self.remote.host
    }

    /// For error messages.
    pub(super) fn name(&self) -> String {
        self.remote.blob_name(&self.digest)
    }

    /// Asks the first server that is not avoided, and the next ones at once when a mirror fails.
    /// Tells also which mirror answered; `None`: the registry itself.
    pub(super) async fn request(
        &self,
        want: Want,
    ) -> Result<(Reply, Accepted, Option<Endpoint>), RegistryError> {
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
    pub(super) fn distrust(&self, mirrors: &[Endpoint]) -> bool {
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
        let looking_up = if self.transport().manners.serves_blobs(server) {
            None
        } else {
            // Nor on one whose answer does not come.
            let wait = self.transport().hedges.after().map_or(Duration::MAX, |after| after / 2);
            tokio::time::timeout(wait, self.lookup.lock()).await.ok()
        };
        if looking_up.is_some()
            && let Some(outcome) = self.request_from_target(server, access, want).await
        {
            return outcome;
        }
        let url = server.url(&self.remote.name, &format!("blobs/{}", self.digest))?;
        let reply = self.transport().attempt(&self.call(access, url.clone(), want)).await?;
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
        let outcome = match self.transport().attempt(&self.call(access, target.clone(), want)).await {
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

    fn call(&self, access: &Access, url: Url, want: Want) -> Call {
        let mut call = Call::get(url, want.kind, &access.endpoint.link);
        call.access = Some(access.clone());
        call.meter.clone_from(&self.remote.meter);
        if let Some(header) = want.header() {
            call.headers.insert(RANGE, header);
        }
        call
    }

    fn forget(&self, target: &Url) {
        let mut choice = self.choice.lock();
        if choice.target.as_ref().is_some_and(|(cached, _)| cached == target) {
            choice.target = None;
        }
    }
}
