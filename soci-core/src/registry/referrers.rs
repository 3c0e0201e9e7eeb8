//! Referrers: the manifests whose subject is a given manifest.
//!
//! Owns no state. The referrers API is asked first; a registry without it has them in an index tagged
//! `sha256-<hex>` (OCI distribution specification 1.1, "referrers tag schema"). Invariants: an empty list means
//! that the registry said there are none; a refusal or a failure is an error; entries of other tools that we cannot read
//! spoil no list.

use bytes::Bytes;
use http::header::{ACCEPT, LINK};
use http::{HeaderValue, Method};
use reqwest::Url;

use super::access::Action;
use super::client::{MAX_MANIFEST, Repository};
use super::error::RegistryError;
use super::hosts::{Capabilities, Endpoint};
use super::reference::TagOrDigest;
use super::traffic::RequestKind;
use crate::digest::Digest;
use crate::image::{Descriptor, List};
use crate::media_type::OCI_INDEX;

/// Pages of one list that are read.
const MAX_PAGES: usize = 64;
/// Referrers of one manifest that are kept.
const MAX_REFERRERS: usize = 10_000;
/// Bytes of all pages of one list.
const MAX_LIST: u64 = 16 << 20;

impl Repository {
    /// Manifests that refer to `subject`, optionally only those of one artifact type, in the registry's order.
    ///
    /// A mirror that lists none is not believed: many keep images only.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let (mirrors, last) = self.remote.route().to(Capabilities::RESOLVE)?;
        for mirror in self.remote.transport.awake(mirrors) {
            match self.referrers_from(&mirror, subject, artifact_type, false).await {
                Ok(found) if found.is_empty() => {}
                Ok(found) => return Ok(found),
                Err(error) => self.remote.transport.resting.note(&mirror, &error),
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
        let mut found = match self.referrers_by_api(server, subject, artifact_type, patient).await {
            Ok(Some(found)) => found,
            Ok(None) => self.referrers_by_tag(server, subject, patient).await?.unwrap_or_default(),
            // A registry, or what stands in front of it, may refuse a path that it does not know, or fail on it. No tag says
            // nothing then.
            Err(refused @ (RegistryError::Denied { .. } | RegistryError::Unavailable { .. })) => {
                match self.referrers_by_tag(server, subject, patient).await {
                    Ok(Some(found)) => found,
                    Ok(None) | Err(_) => return Err(refused),
                }
            }
            Err(error) => return Err(error),
        };
        // A registry may ignore the filter, and a tagged index knows none.
        if let Some(wanted) = artifact_type {
            found.retain(|descriptor| descriptor.artifact_type.as_deref() == Some(wanted));
        }
        Ok(found)
    }

    /// `None`: the registry has no referrers API.
    pub(super) async fn referrers_by_api(
        &self,
        server: &Endpoint,
        subject: &Digest,
        artifact_type: Option<&str>,
        patient: bool,
    ) -> Result<Option<Vec<Descriptor>>, RegistryError> {
        let path = format!("referrers/{subject}");
        let mut call = self.remote.call(server, Method::GET, &path, RequestKind::Referrers, Action::Pull)?;
        call.patient = patient;
        call.headers.insert(ACCEPT, HeaderValue::from_static(OCI_INDEX));
        if let Some(wanted) = artifact_type {
            call.url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let (mut found, mut left) = (Vec::new(), MAX_LIST);
        for page in 0..MAX_PAGES {
            let reply = match self.remote.transport.send(&call).await {
                Ok(reply) => reply,
                Err(error) if page == 0 && is_unsupported(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            let next = next_page(&call.url, reply.headers());
            let url = reply.url().clone();
            let raw = reply.bytes(MAX_MANIFEST.min(left)).await?;
            left -= raw.len() as u64;
            // What counts is the body: some registries call their lists by another type, and some front end answers every path
            // with a page of its own.
            match List::parse(&raw) {
                Some(list) => found.extend(list.descriptors()),
                None if page == 0 => return Ok(None),
                None => return Err(RegistryError::protocol(&url, "not a list of referrers")),
            }
            if found.len() > MAX_REFERRERS {
                return Err(RegistryError::protocol(&url, format!("more than {MAX_REFERRERS} referrers")));
            }
            match next {
                Some(next) => call.url = next,
                None => return Ok(Some(found)),
            }
        }
        Err(RegistryError::protocol(&call.url, format!("more than {MAX_PAGES} pages of referrers")))
    }

    /// The list kept under the fallback tag; `None` when there is no such tag.
    async fn referrers_by_tag(
        &self,
        server: &Endpoint,
        subject: &Digest,
        patient: bool,
    ) -> Result<Option<Vec<Descriptor>>, RegistryError> {
        let Some(raw) = self.referrers_tag(server, subject, patient).await? else { return Ok(None) };
        if let Some(list) = List::parse(&raw) {
            return Ok(Some(list.descriptors()));
        }
        let url = server.url(&self.remote.name, &format!("manifests/{}", fallback_tag(subject)))?;
        Err(RegistryError::protocol(&url, "not a list of referrers"))
    }

    /// The bytes of the list kept under the fallback tag; `None` when there is no such tag.
    pub(super) async fn referrers_tag(
        &self,
        server: &Endpoint,
        subject: &Digest,
        patient: bool,
    ) -> Result<Option<Bytes>, RegistryError> {
        let tag = TagOrDigest::Tag(fallback_tag(subject));
        match self.manifest_from(server, &tag, RequestKind::Referrers, patient).await {
            Ok((raw, _, _)) => Ok(Some(raw)),
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Tag of the index that lists the referrers of `subject`.
pub(super) fn fallback_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// Whether an answer means that there is no such API.
fn is_unsupported(error: &RegistryError) -> bool {
    match error {
        RegistryError::NotFound { .. } => true,
        RegistryError::Status { status, .. } => matches!(status, 400 | 405 | 406 | 410 | 415 | 422 | 501),
        _ => false,
    }
}

/// The target of `Link: <URL>; rel="next"`, on the server that `url` is on: behind a proxy, registries know themselves by names
/// that are of no use to others. The angle brackets may be missing.
fn next_page(url: &Url, headers: &http::HeaderMap) -> Option<Url> {
    let values = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let target = values.flat_map(links).find_map(|(target, parameters)| {
        let is_next = parameters.split(';').any(|parameter| {
            let parameter: String = parameter.chars().filter(|c| !c.is_whitespace() && *c != '"').collect();
            parameter.eq_ignore_ascii_case("rel=next")
        });
        is_next.then_some(target)
    })?;
    let target = url.join(target).ok()?;
    let mut next = url.clone();
    next.set_path(target.path());
    next.set_query(target.query());
    Some(next)
}

/// Target and parameters of each link of a header's value.
fn links(value: &str) -> Vec<(&str, &str)> {
    let (mut links, mut rest) = (Vec::new(), value);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return links;
        }
        let (target, after) = match rest.strip_prefix('<') {
            Some(inside) => inside.split_once('>').unwrap_or((inside, "")),
            None => rest.split_at(rest.find([';', ',']).unwrap_or(rest.len())),
        };
        let parameters = after.split(',').next().unwrap_or_default();
        links.push((target.trim(), parameters));
        rest = &after[parameters.len()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_page_is_found_among_links() {
        let url = Url::parse("https://r.test/v2/a/referrers/sha256:0").expect("a valid URL");
        let next = |value: &str| {
            let value = HeaderValue::try_from(value).expect("a valid value");
            next_page(&url, &[(LINK, value)].into_iter().collect()).map(|url| url.to_string())
        };
        let second = Some("https://r.test/v2/a/referrers/sha256:0?n=2".to_owned());
        assert_eq!(next("</v2/a/referrers/sha256:0?n=2>; rel=\"next\""), second);
        assert_eq!(next("</x,y>; rel=prev, <?n=2>; rel=next"), second);
        assert_eq!(next("?n=2; rel=\"next\""), second, "without its brackets");
        assert_eq!(
            next("<http://inside:5000/v2/a/referrers/sha256:0?n=2>; REL=next"),
            second,
            "on this server"
        );
        for none in ["</x>; rel=\"prev\"", "</x>", "", ",,", "<", "<http://[>; rel=next"] {
            assert_eq!(next(none), None, "{none}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_link_is_survived(text in r#"(<|>|,|;|rel=next|"|/v2/a| |[a-z?=&]){0,16}"#) {
            let url = Url::parse("https://r.test/v2/a/referrers/sha256:0").expect("a valid URL");
            if let Ok(value) = HeaderValue::try_from(text) {
                let next = next_page(&url, &[(LINK, value)].into_iter().collect());
                proptest::prop_assert!(next.is_none_or(|next| next.origin() == url.origin()));
            }
        }
    }
}
