//! Sending blobs to a registry.
//!
//! Owns no state. Invariants: a blob that the registry has is not sent again; content that is not what its digest says is
//! refused by the registry and never by chance accepted, because the digest is part of every request.

use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderValue, Method, StatusCode};
use reqwest::Url;

use super::access::Action;
use super::client::Repository;
use super::content::Content;
use super::error::RegistryError;
use super::follow::follow;
use super::reply::Reply;
use super::retry::Budget;
use super::traffic::RequestKind;
use super::transport::time_to_digest;
use super::wire::Call;
use crate::digest::Digest;
use crate::units::ByteRange;

/// Size of the pieces in which a blob is sent to a registry that refuses it in one.
const CHUNK: u64 = 16 << 20;
/// How often in a row a registry may say that a piece does not fit where it said it would.
const MAX_OUT_OF_STEP: u32 = 3;

impl Repository {
    /// Sends the blob `digest` unless the registry has it. `true`: it was sent.
    pub async fn push_blob(&self, digest: &Digest, content: Content) -> Result<bool, RegistryError> {
        if self.blob_exists(digest).await? {
            return Ok(false);
        }
        let mut budget = self.remote.transport.budget();
        loop {
            let failure = match self.upload_whole(digest, &content).await {
                Ok(()) => return Ok(true),
                Err(RegistryError::Status { status: 413, .. }) => {
                    return self.upload_chunks(digest, &content, &mut budget).await.map(|()| true);
                }
                Err(failure) => failure,
            };
            self.remote.transport.pause(failure, &mut budget).await?;
        }
    }

    /// Makes the blob `digest` of the repository `from` (same registry) known in this one without sending it.
    /// `false`: the registry does not do that for us; push it.
    pub async fn mount_blob(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        let mut call = self.push_call(Method::POST, "blobs/uploads/")?;
        call.url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        match self.remote.transport.send(&call).await {
            Ok(reply) if reply.status() == StatusCode::CREATED => Ok(true),
            // The registry opened an upload instead; it ends by itself when nothing comes.
            Ok(_) | Err(RegistryError::NotFound { .. } | RegistryError::Denied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// POST for an address, then one PUT with everything.
    async fn upload_whole(&self, digest: &Digest, content: &Content) -> Result<(), RegistryError> {
        let address = self.begin_upload().await?;
        let mut call = self.upload_call(Method::PUT, with_digest(address, digest))?;
        call.content = content.clone();
        call.time_to_answer = Some(time_to_digest(content.size()));
        self.remote.transport.attempt(&call).await.map(drop)
    }

    /// POST for an address, PATCHes in order, then an empty PUT. A PATCH that failed, or that the registry found to be out of
    /// step, is taken up at the offset that the registry says it has.
    async fn upload_chunks(
        &self,
        digest: &Digest,
        content: &Content,
        budget: &mut Budget,
    ) -> Result<(), RegistryError> {
        let mut address = self.begin_upload().await?;
        let (mut sent, mut out_of_step) = (0, 0);
        while sent < content.size() {
            let part = ByteRange::new(sent, content.size().min(sent + CHUNK));
            let mut call = self.upload_call(Method::PATCH, address.clone())?;
            let range = HeaderValue::try_from(format!("{}-{}", part.start, part.end - 1));
            call.headers
                .insert(CONTENT_RANGE, range.map_err(|_| RegistryError::protocol(&call.url, "range"))?);
            call.content = content.part(part);
            match self.remote.transport.attempt(&call).await {
                Ok(reply) => {
                    address = upload_address(&reply)?;
                    (sent, out_of_step) = (part.end, 0);
                    continue;
                }
                Err(RegistryError::Status { status: 416, .. }) if out_of_step < MAX_OUT_OF_STEP => {
                    out_of_step += 1;
                }
                Err(error) => self.remote.transport.pause(error, budget).await?,
            }
            let status = self.upload_call(Method::GET, address.clone())?;
            let reply = self.remote.transport.send_within(&status, budget).await?;
            sent = received(&reply)
                .filter(|sent| *sent <= content.size())
                .ok_or_else(|| RegistryError::protocol(reply.url(), "upload status without a valid Range"))?;
            address = upload_address(&reply).unwrap_or(address);
        }
        self.finish_upload(address, digest, content.size(), budget).await
    }

    /// The PUT that ends an upload in pieces. The registry may have to read all of it again, so it gets time by size. What it
    /// did with a PUT whose answer got lost is asked before the PUT is sent again.
    async fn finish_upload(
        &self,
        address: Url,
        digest: &Digest,
        size: u64,
        budget: &mut Budget,
    ) -> Result<(), RegistryError> {
        let mut call = self.upload_call(Method::PUT, with_digest(address, digest))?;
        call.time_to_answer = Some(time_to_digest(size));
        loop {
            let Err(failure) = self.remote.transport.attempt(&call).await else { return Ok(()) };
            self.remote.transport.pause(failure, budget).await?;
            if self.blob_exists(digest).await? {
                return Ok(());
            }
        }
    }

    async fn begin_upload(&self) -> Result<Url, RegistryError> {
        let call = self.push_call(Method::POST, "blobs/uploads/")?;
        upload_address(&self.remote.transport.send(&call).await?)
    }

    /// A call to an upload address, which may be on another host: then it carries its own permission.
    fn upload_call(&self, method: Method, url: Url) -> Result<Call, RegistryError> {
        let server = self.remote.writer()?;
        let mut call = Call::get(url, RequestKind::Push, &server.link);
        call.method = method;
        call.access = Some(self.remote.access(&server, Action::Push));
        if call.method != Method::GET {
            call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        }
        Ok(call)
    }
}

fn upload_address(reply: &Reply) -> Result<Url, RegistryError> {
    follow(reply.url(), reply.header(LOCATION))
}

fn with_digest(mut address: Url, digest: &Digest) -> Url {
    address.query_pairs_mut().append_pair("digest", &digest.to_string());
    address
}

/// Bytes that the registry has of an upload: `Range: 0-N` is N + 1 (`0-0` may also mean none).
fn received(reply: &Reply) -> Option<u64> {
    let last: u64 = reply.header(RANGE)?.trim_start_matches("bytes=").strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last.checked_add(1)? })
}
