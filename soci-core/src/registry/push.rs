//! Writing manifests to a registry by their exact bytes, and having them found as referrers.
//!
//! Owns no state. Invariants: a manifest is sent as it is, and the digest the registry answers must be that of the bytes; what
//! others have in the referrers tag stays in it byte by byte.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method};

use super::access::Action;
use super::client::{Repository, check};
use super::content::Content;
use super::error::{RegistryError, printable};
use super::reference::TagOrDigest;
use super::referrers::fallback_tag;
use super::traffic::RequestKind;
use super::transport::time_to_digest;
use super::wire::Call;
use crate::any_digest::AnyDigest;
use crate::digest::Digest;
use crate::image::{Descriptor, ImageIndex, List};
use crate::media_type::OCI_INDEX;

/// How often the referrers tag is written because another writer overwrote our entries.
const TAG_ATTEMPTS: usize = 4;
/// How often a registry with a referrers API is asked whether it lists what it was sent.
const LIST_ATTEMPTS: usize = 5;

/// A manifest that refers to another.
#[derive(Debug, Clone)]
pub struct Referrer {
    /// As a list of referrers has it.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub raw: Bytes,
}

impl Repository {
    /// Sends a manifest under `reference` (tag or digest), byte by byte as given; answers its digest.
    pub async fn push_manifest(
        &self,
        reference: &str,
        media_type: &str,
        raw: &[u8],
    ) -> Result<Digest, RegistryError> {
        self.put_manifest(reference, media_type, raw).await.map(|_| Digest::of(raw))
    }

    /// Sends a manifest with a subject, by its digest. `true`: the registry says that it lists it; else it is to be listed by
    /// [`Self::list_referrers`].
    pub async fn push_referrer(&self, referrer: &Referrer) -> Result<bool, RegistryError> {
        let reference = Digest::of(&referrer.raw).to_string();
        self.put_manifest(&reference, &referrer.descriptor.media_type, &referrer.raw).await
    }

    /// Sees to it that manifests that the registry has are found as referrers of `subject`: by the registry itself, or by the
    /// referrers tag on a registry that does not know of subjects. Takes one look and, if that is not enough, one write.
    pub async fn list_referrers(
        &self,
        subject: &Digest,
        referrers: &[Referrer],
    ) -> Result<(), RegistryError> {
        let mut missing: Vec<&Referrer> = referrers.iter().collect();
        let server = self.remote.writer()?;
        let by_api = self.referrers_by_api(&server, subject, None, true).await;
        // A failure is met again by the look at the tag, or means that there is no list but that one.
        let Ok(Some(listed)) = by_api else { return self.write_referrers_tag(subject, &missing).await };
        let forget_listed = |missing: &mut Vec<&Referrer>, listed: &[Descriptor]| {
            missing.retain(|one| !listed.iter().any(|known| known.digest == one.descriptor.digest));
        };
        forget_listed(&mut missing, &listed);
        if missing.is_empty() {
            return Ok(());
        }
        // It lists what it gets; what it got before it knew of subjects, it gets again. One that does not say so may be slow.
        for referrer in &missing {
            self.push_referrer(referrer).await?;
        }
        let url = printable(&server.url(&self.remote.name, &format!("referrers/{subject}"))?);
        let mut budget = self.remote.transport.budget();
        for attempt in 1.. {
            let listed = self.referrers_by_api(&server, subject, None, true).await?.unwrap_or_default();
            forget_listed(&mut missing, &listed);
            let Some(first) = missing.first() else { break };
            let error = RegistryError::NotListed { url: url.clone(), digest: first.descriptor.digest };
            if attempt == LIST_ATTEMPTS {
                return Err(error);
            }
            self.remote.transport.pause(error, &mut budget).await?;
        }
        Ok(())
    }

    /// Adds `referrers` to the front of the index tagged `sha256-<hex of subject>`, keeping what is in it: who looks for
    /// an index of an image takes the first one, which is the newest then. Nothing is written when all are there.
    ///
    /// Writers of this process wait for each other. The specification gives writers of different processes no
    /// way to do so: each reads back what it wrote, but one that writes in between can still drop an entry.
    async fn write_referrers_tag(
        &self,
        subject: &Digest,
        referrers: &[&Referrer],
    ) -> Result<(), RegistryError> {
        self.edit_referrers_tag(subject, |list| {
            let listed = list.descriptors();
            let is_new = |one: &Descriptor| !listed.iter().any(|known| known.digest == one.digest);
            let new: Vec<_> =
                referrers.iter().map(|one| one.descriptor.clone()).filter(|one| is_new(one)).collect();
            (!new.is_empty()).then(|| list.with(&new))
        })
        .await
    }

    /// Writes what `edit` makes of the index in the referrers tag of `subject`, until it makes nothing of it any more.
    pub(super) async fn edit_referrers_tag(
        &self,
        subject: &Digest,
        edit: impl Fn(&List<'_>) -> Option<Vec<u8>>,
    ) -> Result<(), RegistryError> {
        let tag = fallback_tag(subject);
        let _writing = self.remote.transport.tag_writer.lock().await;
        let url = self.remote.writer()?.url(&self.remote.name, &format!("manifests/{tag}"))?;
        for attempt in 0..=TAG_ATTEMPTS {
            let raw = self.referrers_tag(&self.remote.writer()?, subject, true).await?;
            let raw = raw.unwrap_or_else(|| ImageIndex::encode(&[]).into());
            let list = List::parse(&raw)
                .ok_or_else(|| RegistryError::protocol(&url, "the referrers tag is not a list"))?;
            let Some(edited) = edit(&list) else { return Ok(()) };
            if attempt < TAG_ATTEMPTS {
                // The next turn reads back what really stands there.
                self.put_manifest(&tag, OCI_INDEX, &edited).await.map_err(|source| {
                    RegistryError::ReferrersTag { tag: tag.clone(), source: Box::new(source) }
                })?;
            }
        }
        Err(RegistryError::protocol(&url, "other writers keep overwriting the referrers tag"))
    }

    /// Whether the registry lists the manifest as a referrer of its subject.
    async fn put_manifest(
        &self,
        reference: &str,
        media_type: &str,
        raw: &[u8],
    ) -> Result<bool, RegistryError> {
        let reference: TagOrDigest = reference.parse()?;
        let mut call = self.push_call(Method::PUT, &format!("manifests/{reference}"))?;
        let media_type = HeaderValue::try_from(media_type)
            .map_err(|_| RegistryError::protocol(&call.url, format!("media type {media_type:?}")))?;
        call.headers.insert(CONTENT_TYPE, media_type);
        call.content = Content::Bytes(Bytes::copy_from_slice(raw));
        call.time_to_answer = Some(time_to_digest(raw.len() as u64));
        let reply = self.remote.transport.send(&call).await?;
        let stated = reply.header("docker-content-digest").and_then(|text| text.parse::<AnyDigest>().ok());
        if let Some(stated) = stated {
            check(&call.url, stated.of(raw), stated)?;
        }
        Ok(reply.header("oci-subject").is_some())
    }

    pub(super) fn push_call(&self, method: Method, path: &str) -> Result<Call, RegistryError> {
        self.remote.call(&self.remote.writer()?, method, path, RequestKind::Push, Action::Push)
    }
}
