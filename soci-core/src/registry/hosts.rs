//! From the registry's name in a reference to the address that is asked.
//!
//! Owns no state. Invariant: plain HTTP is used only for loopback hosts and hosts the user listed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use oci_client::Reference;
use reqwest::Url;

use super::error::RegistryError;

/// One registry as it is reached: scheme and authority.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// `host` or `host:port`, as in the URL.
    pub(crate) host: String,
    /// Spoken to without TLS.
    pub(crate) plain: bool,
}

impl Endpoint {
    /// The endpoint that serves `reference`.
    pub(crate) fn of(reference: &Reference, plain_http: &BTreeSet<String>) -> Self {
        let host = reference.resolve_registry().to_owned();
        let plain = is_loopback(host_part(&host))
            || plain_http.contains(&host)
            || plain_http.contains(host_part(&host))
            || plain_http.contains(reference.registry());
        Self { host, plain }
    }

    /// Address of `path` under the API root of `repository`, e.g. `manifests/latest`.
    pub(crate) fn url(&self, repository: &str, path: &str) -> Result<Url, RegistryError> {
        let scheme = if self.plain { "http" } else { "https" };
        let url = format!("{scheme}://{}/v2/{repository}/{path}", self.host);
        Url::parse(&url).map_err(|error| RegistryError::Protocol { url, reason: error.to_string() })
    }

    /// True when `url` is on this very registry, so that our credential may be shown there.
    pub(crate) fn serves(&self, url: &Url) -> bool {
        url.scheme() == if self.plain { "http" } else { "https" }
            && self.url("x", "").is_ok_and(|own| own.origin() == url.origin())
    }
}

/// `host` without a port.
fn host_part(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// True when `host` (no port) can only mean this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(reference: &str, plain_http: &[&str]) -> Endpoint {
        let plain_http = plain_http.iter().map(|host| (*host).to_owned()).collect();
        Endpoint::of(&reference.parse().expect("a valid reference"), &plain_http)
    }

    #[test]
    fn plain_http_is_for_loopback_and_listed_hosts() {
        for reference in
            ["localhost/a", "localhost:5000/a", "127.0.0.1:5000/a", "127.9.9.9:1/a", "x.localhost:1/a"]
        {
            assert!(endpoint(reference, &[]).plain, "{reference}");
        }
        for reference in ["registry.test/a", "10.0.0.1:5000/a", "localhost.test/a", "redis"] {
            assert!(!endpoint(reference, &[]).plain, "{reference}");
        }
        assert!(endpoint("10.0.0.1:5000/a", &["10.0.0.1:5000"]).plain);
        assert!(endpoint("10.0.0.1:5000/a", &["10.0.0.1"]).plain);
        assert!(!endpoint("10.0.0.1:5001/a", &["10.0.0.1:5000"]).plain);
    }

    #[test]
    fn credentials_are_for_the_same_scheme_host_and_port() {
        let registry = endpoint("registry.test/a", &[]);
        let serves = |url: &str| registry.serves(&Url::parse(url).expect("a valid URL"));
        assert!(serves("https://registry.test/v2/a/blobs/x"));
        assert!(serves("https://registry.test:443/elsewhere"));
        assert!(!serves("http://registry.test/v2/"));
        assert!(!serves("https://registry.test:8443/v2/"));
        assert!(!serves("https://cdn.registry.test/v2/"));
    }

    #[test]
    fn impossible_hosts_are_errors() {
        assert!(endpoint("registry.test:99999/a", &[]).url("a", "tags/list").is_err());
    }
}
