//! Names of images: registry, repository, tag and digest.
//!
//! Owns no state. The grammar is `oci_client`'s, which knows no IPv6 addresses; those are read here. Invariant: what a
//! [`TagOrDigest`] holds can stand in a path of the API, and its digest is one that can be checked.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use oci_client::ParseError;

use super::error::RegistryError;
use crate::any_digest::AnyDigest;

/// Stands for an IPv6 address where the grammar wants a host name.
const STAND_IN: &str = "address.invalid";
/// Characters of a tag at most (OCI distribution specification).
const MAX_TAG: usize = 128;

/// The name of an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    name: oci_client::Reference,
    /// `[ADDRESS]` or `[ADDRESS]:PORT`, in place of the registry of `name`.
    address: Option<String>,
}

impl Reference {
    /// The registry as the user wrote it; `docker.io` if there is none.
    pub fn registry(&self) -> &str {
        self.address.as_deref().unwrap_or_else(|| self.name.registry())
    }

    /// The host that answers for it.
    pub fn resolve_registry(&self) -> &str {
        self.address.as_deref().unwrap_or_else(|| self.name.resolve_registry())
    }

    /// The repository within the registry.
    pub fn repository(&self) -> &str {
        self.name.repository()
    }

    /// The tag; `latest` if there is neither a tag nor a digest.
    pub fn tag(&self) -> Option<&str> {
        self.name.tag()
    }

    /// The digest, as it is written.
    pub fn digest(&self) -> Option<&str> {
        self.name.digest()
    }

    /// The name in full.
    pub fn whole(&self) -> String {
        self.with_address(self.name.whole())
    }

    fn with_address(&self, name: String) -> String {
        match &self.address {
            Some(address) => name.replacen(STAND_IN, address, 1),
            None => name,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_address(self.name.to_string()))
    }
}

impl FromStr for Reference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if !text.starts_with('[') {
            return Ok(Self { name: text.parse()?, address: None });
        }
        let (address, rest) = text.split_once('/').ok_or(ParseError::ReferenceInvalidFormat)?;
        if !is_ipv6(address) {
            return Err(ParseError::ReferenceInvalidFormat);
        }
        Ok(Self { name: format!("{STAND_IN}/{rest}").parse()?, address: Some(address.to_owned()) })
    }
}

/// Whether this is `[ADDRESS]` or `[ADDRESS]:PORT`.
fn is_ipv6(text: &str) -> bool {
    let parts = text.strip_prefix('[').and_then(|text| text.split_once(']'));
    parts.is_some_and(|(address, port)| {
        let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
        address.parse::<Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
    })
}

/// What is asked of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagOrDigest {
    /// Whatever the registry has under this name.
    Tag(String),
    /// The content of this digest, and nothing else.
    Digest(AnyDigest),
}

impl FromStr for TagOrDigest {
    type Err = RegistryError;

    /// Reads a tag or a digest, which may come from a label or an annotation. What has a colon is a digest.
    fn from_str(text: &str) -> Result<Self, RegistryError> {
        let wrong = |reason: String| RegistryError::Protocol { url: text.to_owned(), reason };
        if text.contains(':') {
            return text.parse().map(Self::Digest).map_err(|error| wrong(format!("{error}")));
        }
        let is_tag = text.len() <= MAX_TAG
            && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if is_tag { Ok(Self::Tag(text.to_owned())) } else { Err(wrong("not a tag or digest".to_owned())) }
    }
}

impl fmt::Display for TagOrDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => fmt::Display::fmt(digest, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_ipv6_are_registries() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, registry, whole) in [
            ("[::1]:5000/a", "[::1]:5000", "[::1]:5000/a:latest".to_owned()),
            ("[2001:db8::7]/team/a:v1", "[2001:db8::7]", "[2001:db8::7]/team/a:v1".to_owned()),
            (&format!("[::1]/a@{digest}"), "[::1]", format!("[::1]/a@{digest}")),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.registry(), reference.resolve_registry()), (registry, registry), "{text}");
            assert_eq!(reference.whole(), whole);
        }
        for text in
            ["[::1]", "[::1]:x/a", "[::1]:99999/a", "[]/a", "[::1/a", "[1.2.3.4]/a", "[::1]a/b", "[::1]:/a"]
        {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        let hub: Reference = "redis".parse().unwrap();
        assert_eq!((hub.registry(), hub.resolve_registry()), ("docker.io", "index.docker.io"));
        assert_eq!(hub.whole(), "docker.io/library/redis:latest");
    }

    #[test]
    fn what_is_a_tag_and_what_a_digest() {
        let read = |text: &str| text.parse::<TagOrDigest>();
        assert!(matches!(read("v1.0_x-y"), Ok(TagOrDigest::Tag(_))));
        for algorithm in [("sha256", 64), ("sha384", 96), ("sha512", 128)] {
            let text = format!("{}:{}", algorithm.0, "AB".repeat(algorithm.1 / 2));
            assert_eq!(read(&text).unwrap().to_string(), text.to_lowercase());
        }
        let long = "t".repeat(MAX_TAG + 1);
        for text in ["", "-a", "a/b", "../x", "sha256:00", "md5:00", "a:b", "a b", "ä", &long] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
