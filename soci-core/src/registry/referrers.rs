//! Referrers: the manifests whose subject is a given manifest.
//!
//! Owns no state. The referrers API is asked first; a registry without it has them in an index tagged
//! `sha256-<hex>` (OCI distribution specification 1.1, "referrers tag schema"). Invariant: an empty list means
//! that the registry said there are none; a refusal or a failure is an error.

use bytes::Bytes;
use http::header::{ACCEPT, LINK};
use http::{HeaderValue, Method};
use reqwest::Url;

use super::auth::Action;
use super::client::{MAX_MANIFEST, Repository, manifest_path};
use super::error::RegistryError;
use super::hosts::{Capabilities, Endpoint};
use super::traffic::RequestKind;
use crate::digest::Digest;
use crate::image::{Descriptor, ImageIndex};
use crate::media_type::OCI_INDEX;

/// Pages of one list that are read.
const MAX_PAGES: usize = 64;
/// Referrers of one manifest that are kept.
const MAX_REFERRERS: usize = 10_000;

impl Repository {
    /// Manifests that refer to `subject`, optionally only those of one artifact type, in the registry's order.
    ///
    /// A mirror that lists none is not believed: many keep images only.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let (mirrors, last) = self.route.to(Capabilities::RESOLVE)?;
        for mirror in self.transport.awake(mirrors) {
            match self.referrers_from(&mirror, subject, artifact_type, false).await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => return Ok(found),
                Err(error) => self.transport.resting.note(&mirror, &error),
            }
        }
        self.referrers_from(&last, subject, artifact_type, true).await
    }

    async fn referrers_from(
        &self,
        server: &Endpoint,
        subject: &Digest,
        artifact_type: Option<&str>,
        patient: bool,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let mut found = match self.referrers_by_api(server, subject, artifact_type, patient).await? {
            Some(found) => found,
            None => self.referrers_by_tag(server, subject, patient).await?,
        };
        // A registry may ignore the filter, and a tagged index knows none.
        if let Some(wanted) = artifact_type {
            found.retain(|descriptor| descriptor.artifact_type.as_deref() == Some(wanted));
        }
        Ok(found)
    }

    /// `None`: the registry has no referrers API.
    async fn referrers_by_api(
        &self,
        server: &Endpoint,
        subject: &Digest,
        artifact_type: Option<&str>,
        patient: bool,
    ) -> Result<Option<Vec<Descriptor>>, RegistryError> {
        let path = format!("referrers/{subject}");
        let mut call = self.call(server, Method::GET, &path, RequestKind::Referrers, Action::Pull)?;
        call.patient = patient;
        call.headers.insert(ACCEPT, HeaderValue::from_static(OCI_INDEX));
        if let Some(wanted) = artifact_type {
            call.url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let mut found = Vec::new();
        for _ in 0..MAX_PAGES {
            let reply = match self.transport.send(&call).await {
                Ok(reply) => reply,
                Err(error) if found.is_empty() && is_unsupported(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            if reply.media_type().is_some_and(|media_type| media_type != OCI_INDEX) && found.is_empty() {
                // Some front end answers every path with a page of its own.
                return Ok(None);
            }
            let next = next_page(&reply.url().clone(), reply.headers());
            let url = reply.url().clone();
            let page = reply.bytes(MAX_MANIFEST).await?;
            found.extend(parse_index(&url, page)?.manifests);
            if found.len() > MAX_REFERRERS {
                return Err(RegistryError::protocol(&url, format!("more than {MAX_REFERRERS} referrers")));
            }
            match next {
                Some(next) if server.serves(&next) => call.url = next,
                Some(_) => return Err(RegistryError::protocol(&url, "next page on another host")),
                None => return Ok(Some(found)),
            }
        }
        Err(RegistryError::protocol(&call.url, format!("more than {MAX_PAGES} pages of referrers")))
    }

    /// The list kept under the fallback tag; empty when there is no such tag.
    pub(super) async fn referrers_by_tag(
        &self,
        server: &Endpoint,
        subject: &Digest,
        patient: bool,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let tag = fallback_tag(subject);
        match self.manifest_from(server, &tag, RequestKind::Referrers, patient).await {
            Ok((raw, _, _)) => {
                Ok(parse_index(&server.url(&self.name, &manifest_path(&tag)?)?, raw)?.manifests)
            }
            Err(RegistryError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// Tag of the index that lists the referrers of `subject`.
pub(super) fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

fn is_unsupported(error: &RegistryError) -> bool {
    match error {
        RegistryError::NotFound { .. } => true,
        RegistryError::Status { status, .. } => matches!(status, 400 | 405 | 406 | 501),
        _ => false,
    }
}

fn parse_index(url: &Url, raw: Bytes) -> Result<ImageIndex, RegistryError> {
    ImageIndex::parse(raw, OCI_INDEX)
        .map_err(|error| RegistryError::protocol(url, format!("not a list of referrers: {error}")))
}

/// The target of `Link: <URL>; rel="next"`.
fn next_page(url: &Url, headers: &http::HeaderMap) -> Option<Url> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    links.flat_map(|value| value.split(',')).find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            let parameter: String = parameter.chars().filter(|c| !c.is_whitespace() && *c != '"').collect();
            parameter.eq_ignore_ascii_case("rel=next")
        });
        is_next.then(|| url.join(target).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_page_is_found_among_links() {
        let url = Url::parse("https://r.test/v2/a/referrers/sha256:0").expect("a valid URL");
        let next = |value: &'static str| {
            let headers = [(LINK, HeaderValue::from_static(value))].into_iter().collect();
            next_page(&url, &headers).map(|url| url.to_string())
        };
        let second = Some("https://r.test/v2/a/referrers/sha256:0?n=2".to_owned());
        assert_eq!(next("</v2/a/referrers/sha256:0?n=2>; rel=\"next\""), second);
        assert_eq!(next("</x>; rel=prev, <?n=2>; rel=next"), second);
        assert_eq!(next("</x>; rel=\"prev\""), None);
        assert_eq!(next("/x; rel=next"), None);
    }
}
