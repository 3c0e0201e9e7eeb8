//! Taking manifests away from a registry, and out of the lists of referrers.
//!
//! Owns no state. Invariant: what others have in the referrers tag stays in it byte by byte.

use http::Method;

use super::access::Action;
use super::client::Repository;
use super::error::RegistryError;
use super::referrers::fallback_tag;
use super::traffic::RequestKind;
use crate::digest::Digest;
use crate::image::List;
use crate::media_type::OCI_INDEX;

/// How often the referrers tag is written because another writer brought the entry back.
const TAG_ATTEMPTS: usize = 4;

impl Repository {
    /// Removes the manifest `digest`. `false`: it was not there.
    ///
    /// # Errors
    /// [`RegistryError::Status`] with 405 or 400 by registries that do not delete; whatever a request can end with.
    pub async fn remove_manifest(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let server = self.remote.writer()?;
        let path = format!("manifests/{digest}");
        let call = self.remote.call(&server, Method::DELETE, &path, RequestKind::Push, Action::Delete)?;
        match self.remote.transport.send(&call).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes `digest` out of the referrers tag of `subject`, if a registry keeps one and it is in there. A registry that lists
    /// referrers by itself forgets a manifest when it is removed.
    ///
    /// # Errors
    /// Those of reading and of writing the tag; [`RegistryError::Protocol`] when other writers keep bringing the entry back.
    pub async fn unlist_referrer(&self, subject: &Digest, digest: &Digest) -> Result<(), RegistryError> {
        let tag = fallback_tag(subject);
        let _writing = self.remote.transport.tag_writer.lock().await;
        let url = self.remote.writer()?.url(&self.remote.name, &format!("manifests/{tag}"))?;
        for attempt in 0..=TAG_ATTEMPTS {
            let Some(raw) = self.referrers_tag(&self.remote.writer()?, subject, true).await? else {
                return Ok(());
            };
            let list = List::parse(&raw)
                .ok_or_else(|| RegistryError::protocol(&url, "the referrers tag is not a list"))?;
            let Some(rest) = list.without(digest) else { return Ok(()) };
            if attempt < TAG_ATTEMPTS {
                self.push_manifest(&tag, OCI_INDEX, &rest).await.map_err(|source| {
                    RegistryError::ReferrersTag { tag: tag.clone(), source: Box::new(source) }
                })?;
            }
        }
        Err(RegistryError::protocol(&url, "other writers keep overwriting the referrers tag"))
    }
}
