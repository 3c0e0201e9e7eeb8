//! Where a `Location` leads: that of a redirect, and that of an upload.
//!
//! Owns no state. Invariant: nothing leads from HTTPS to plain HTTP. A registry behind a proxy that ends TLS does not always
//! know that it is spoken to with TLS, and names itself with `http`: then it is meant with `https`.

use reqwest::Url;

use super::error::RegistryError;

/// The address that `location`, in an answer from `from`, stands for.
pub(super) fn follow(from: &Url, location: Option<&str>) -> Result<Url, RegistryError> {
    let location = location.ok_or_else(|| RegistryError::protocol(from, "answer without a Location"))?;
    let mut target = from
        .join(location)
        .map_err(|error| RegistryError::protocol(from, format!("Location is not an address: {error}")))?;
    match (from.scheme(), target.scheme()) {
        (_, "https") | ("http", "http") => Ok(target),
        ("https", "http") if is_same_place(from, &target) => {
            let port = from.port();
            let kept = target.set_scheme("https").and_then(|()| target.set_port(port));
            kept.map_err(|()| RegistryError::protocol(from, "Location cannot be kept on HTTPS"))?;
            Ok(target)
        }
        (_, scheme) => Err(RegistryError::protocol(
            from,
            format!("Location leads to {scheme} on {}", target.authority()),
        )),
    }
}

/// Whether both are on one host, and on one port as far as `target` names it.
fn is_same_place(from: &Url, target: &Url) -> bool {
    from.host_str() == target.host_str() && target.port().is_none_or(|port| Some(port) == from.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_from_tls_to_plain_http() {
        for (from, location, expected) in [
            ("https://r.test/v2/a", "/v2/b?x=1", Some("https://r.test/v2/b?x=1")),
            ("https://r.test/v2/a", "https://cdn.test/b", Some("https://cdn.test/b")),
            ("https://r.test/v2/a", "http://r.test/v2/b?x=1", Some("https://r.test/v2/b?x=1")),
            ("https://r.test:5443/v2/a", "http://r.test/v2/b", Some("https://r.test:5443/v2/b")),
            ("https://r.test:5443/v2/a", "http://r.test:5443/v2/b", Some("https://r.test:5443/v2/b")),
            ("https://r.test/v2/a", "http://r.test:80/v2/b", Some("https://r.test/v2/b")),
            ("https://r.test/v2/a", "http://r.test:5000/v2/b", None),
            ("https://r.test/v2/a", "http://other.test/v2/b", None),
            ("https://r.test/v2/a", "ftp://r.test/b", None),
            ("http://r.test/v2/a", "http://other.test/b", Some("http://other.test/b")),
            ("http://r.test/v2/a", "https://other.test/b", Some("https://other.test/b")),
            ("http://r.test/v2/a", "file:///etc/passwd", None),
            ("https://r.test/v2/a", "http://[", None),
        ] {
            let from = Url::parse(from).expect("a valid URL");
            let target = follow(&from, Some(location)).ok().map(|url| url.to_string());
            assert_eq!(target.as_deref(), expected, "{from} to {location}");
        }
        assert!(follow(&Url::parse("http://r.test/").expect("a valid URL"), None).is_err());
    }
}
