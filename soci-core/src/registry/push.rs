//! Writing to a registry: blobs, manifests by their exact bytes, and the referrers tag.
//!
//! Owns no state. Invariants: a blob that the registry has is not sent again; a manifest is sent as it is and
//! the digest the registry answers must be that of the bytes; content that is not what its digest says is
//! refused by the registry and never by chance accepted, because the digest is part of every request.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderValue, Method, StatusCode};
use reqwest::Url;
use serde::Serialize;

use super::auth::Action;
use super::client::{Repository, manifest_path};
use super::content::Content;
use super::error::RegistryError;
use super::referrers::fallback_tag;
use super::reply::Reply;
use super::retry::Budget;
use super::traffic::RequestKind;
use super::transport::Call;
use crate::digest::Digest;
use crate::image::Descriptor;
use crate::media_type::OCI_INDEX;
use crate::units::ByteRange;

/// Size of the pieces in which a blob is sent to a registry that refuses it in one.
const CHUNK: u64 = 16 << 20;
/// How often the referrers tag is written again because another writer overwrote our entry.
const TAG_ATTEMPTS: usize = 4;

impl Repository {
    /// Sends the blob `digest` unless the registry has it. `true`: it was sent.
    pub async fn push_blob(&self, digest: &Digest, content: Content) -> Result<bool, RegistryError> {
        if self.blob_exists(digest).await? {
            return Ok(false);
        }
        let mut budget = self.transport.budget();
        loop {
            let failure = match self.upload_whole(digest, &content).await {
                Ok(()) => return Ok(true),
                Err(RegistryError::Status { status: 413, .. }) => {
                    return self.upload_chunks(digest, &content, &mut budget).await.map(|()| true);
                }
                Err(failure) => failure,
            };
            self.transport.pause(failure, &mut budget).await?;
        }
    }

    /// Makes the blob `digest` of the repository `from` (same registry) known in this one without sending it.
    /// `false`: the registry does not do that for us; push it.
    pub async fn mount_blob(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        let mut call = self.push_call(Method::POST, "blobs/uploads/")?;
        call.url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        match self.transport.send(&call).await {
            Ok(reply) if reply.status() == StatusCode::CREATED => Ok(true),
            // The registry opened an upload instead; it ends by itself when nothing comes.
            Ok(_) | Err(RegistryError::NotFound { .. } | RegistryError::Denied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a manifest under `reference` (tag or digest), byte by byte as given; answers its digest.
    pub async fn push_manifest(
        &self,
        reference: &str,
        media_type: &str,
        raw: &[u8],
    ) -> Result<Digest, RegistryError> {
        self.put_manifest(reference, media_type, raw).await.map(|(digest, _)| digest)
    }

    /// Sends a manifest whose subject is `subject`, by its digest, and sees to it that it is found as a referrer:
    /// by the registry itself, or by the referrers tag on a registry that does not know of subjects.
    pub async fn push_referrer(
        &self,
        subject: &Digest,
        descriptor: Descriptor,
        raw: &[u8],
    ) -> Result<Digest, RegistryError> {
        let reference = Digest::of(raw).to_string();
        let (digest, listed) = self.put_manifest(&reference, &descriptor.media_type, raw).await?;
        if !listed {
            self.push_referrer_tag(subject, descriptor).await?;
        }
        Ok(digest)
    }

    /// Adds `descriptor` to the front of the index tagged `sha256-<hex of subject>`, keeping what is in it: who looks for
    /// an index of an image takes the first one, which is the newest then.
    ///
    /// Writers of this process wait for each other. The specification gives writers of different processes no
    /// way to do so: each reads back what it wrote, but one that writes in between can still drop an entry.
    pub async fn push_referrer_tag(
        &self,
        subject: &Digest,
        descriptor: Descriptor,
    ) -> Result<(), RegistryError> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Index<'a> {
            schema_version: u8,
            media_type: &'a str,
            manifests: &'a [Descriptor],
        }
        let tag = fallback_tag(subject);
        let _writing = self.transport.tag_writer.lock().await;
        for _ in 0..TAG_ATTEMPTS {
            let mut manifests = self.referrers_by_tag(&self.writer()?, subject, true).await?;
            if manifests.iter().any(|known| known.digest == descriptor.digest) {
                return Ok(());
            }
            manifests.insert(0, descriptor.clone());
            let index = Index { schema_version: 2, media_type: OCI_INDEX, manifests: &manifests };
            let raw = crate::json::to_vec(&index)
                .map_err(|source| RegistryError::Content { source: Arc::new(source.into()) })?;
            // The next turn reads back what really stands there.
            self.put_manifest(&tag, OCI_INDEX, &raw).await?;
        }
        let url = self.writer()?.url(&self.name, &format!("manifests/{tag}"))?;
        Err(RegistryError::protocol(&url, "other writers keep overwriting the referrers tag"))
    }

    /// The digest, and whether the registry lists the manifest as a referrer of its subject.
    async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        raw: &[u8],
    ) -> Result<(Digest, bool), RegistryError> {
        let mut call = self.push_call(Method::PUT, &manifest_path(reference)?)?;
        let media_type = HeaderValue::try_from(media_type)
            .map_err(|_| RegistryError::protocol(&call.url, format!("media type {media_type:?}")))?;
        call.headers.insert(CONTENT_TYPE, media_type);
        call.content = Content::Bytes(Bytes::copy_from_slice(raw));
        let reply = self.transport.send(&call).await?;
        let digest = Digest::of(raw);
        let stated = reply.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        if let Some(actual) = stated.filter(|actual| *actual != digest) {
            let url = super::error::printable(&call.url);
            return Err(RegistryError::Digest { url, expected: digest, actual });
        }
        Ok((digest, reply.header("oci-subject").is_some()))
    }

    /// POST for an address, then one PUT with everything.
    async fn upload_whole(&self, digest: &Digest, content: &Content) -> Result<(), RegistryError> {
        let address = self.begin_upload().await?;
        let mut call = self.upload_call(Method::PUT, with_digest(address, digest))?;
        call.content = content.clone();
        self.transport.attempt(&call).await.map(drop)
    }

    /// POST for an address, PATCHes in order, then an empty PUT. A PATCH that failed is taken up at the offset
    /// that the registry says it has.
    async fn upload_chunks(
        &self,
        digest: &Digest,
        content: &Content,
        budget: &mut Budget,
    ) -> Result<(), RegistryError> {
        let mut address = self.begin_upload().await?;
        let mut sent = 0;
        while sent < content.size() {
            let part = ByteRange::new(sent, content.size().min(sent + CHUNK));
            let mut call = self.upload_call(Method::PATCH, address.clone())?;
            let range = HeaderValue::try_from(format!("{}-{}", part.start, part.end - 1));
            call.headers
                .insert(CONTENT_RANGE, range.map_err(|_| RegistryError::protocol(&call.url, "range"))?);
            call.content = content.part(part);
            match self.transport.attempt(&call).await {
                Ok(reply) => {
                    address = upload_address(&reply)?;
                    sent = part.end;
                }
                Err(error) => {
                    self.transport.pause(error, budget).await?;
                    let status = self.upload_call(Method::GET, address.clone())?;
                    let reply = self.transport.send_within(&status, budget).await?;
                    sent = received(&reply).filter(|sent| *sent <= content.size()).ok_or_else(|| {
                        RegistryError::protocol(reply.url(), "upload status without a valid Range")
                    })?;
                    address = upload_address(&reply).unwrap_or(address);
                }
            }
        }
        let call = self.upload_call(Method::PUT, with_digest(address, digest))?;
        self.transport.attempt(&call).await.map(drop)
    }

    async fn begin_upload(&self) -> Result<Url, RegistryError> {
        let call = self.push_call(Method::POST, "blobs/uploads/")?;
        upload_address(&self.transport.send(&call).await?)
    }

    fn push_call(&self, method: Method, path: &str) -> Result<Call, RegistryError> {
        self.call(&self.writer()?, method, path, RequestKind::Push, Action::Push)
    }

    /// A call to an upload address, which may be on another host: then it carries its own permission.
    fn upload_call(&self, method: Method, url: Url) -> Result<Call, RegistryError> {
        let server = self.writer()?;
        let mut call = Call::get(url, RequestKind::Push, &server.link);
        call.method = method;
        call.access = Some(self.access(&server, Action::Push));
        if call.method != Method::GET {
            call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        }
        Ok(call)
    }
}

fn upload_address(reply: &Reply) -> Result<Url, RegistryError> {
    let location = reply.header(LOCATION);
    let location =
        location.ok_or_else(|| RegistryError::protocol(reply.url(), "upload without a Location"))?;
    reply
        .url()
        .join(location)
        .map_err(|error| RegistryError::protocol(reply.url(), format!("upload Location: {error}")))
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
