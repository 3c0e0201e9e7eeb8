//! Taking manifests away from a registry, and out of the lists of referrers.
//!
//! Owns no state. Invariant: what others have in the referrers tag stays in it byte by byte.

use http::Method;

use super::access::Action;
use super::client::Repository;
use super::error::RegistryError;
use super::traffic::RequestKind;
use crate::digest::Digest;

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
        self.edit_referrers_tag(subject, |list| list.without(digest)).await
    }
}
