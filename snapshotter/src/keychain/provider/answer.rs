//! What is said to a provider and what it says: `CredentialProviderRequest` and `CredentialProviderResponse`. Holds no state.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use soci_core::duration;
use soci_core::registry::Credential;

use super::pattern::is_for;

/// For which images an answer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum CacheKey {
    /// The one that was asked about.
    Image,
    /// All of its registry.
    Registry,
    /// All.
    Global,
}

/// What a provider says.
pub(super) struct Answer {
    pub(super) key: CacheKey,
    /// How long it may be kept; `None`: as the configuration says. Zero: not at all.
    pub(super) cache: Option<Duration>,
    auth: BTreeMap<String, Login>,
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("key", &self.key)
            .field("for", &self.auth.keys())
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    kind: String,
    api_version: String,
    cache_key_type: CacheKey,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Login>>,
}

/// The question for `image` in a version.
pub(super) fn question(version: &str, image: &str) -> Vec<u8> {
    let request = json!({ "apiVersion": version, "kind": "CredentialProviderRequest", "image": image });
    let mut line = request.to_string().into_bytes();
    line.push(b'\n');
    line
}

impl Answer {
    /// Reads an answer in the version that was asked in. The error quotes nothing of it.
    pub(super) fn parse(bytes: &[u8], version: &str) -> Result<Self, String> {
        let response: Response = serde_json::from_slice(bytes).map_err(|error| {
            format!("not a CredentialProviderResponse (line {}, column {})", error.line(), error.column())
        })?;
        if response.kind != "CredentialProviderResponse" || response.api_version != version {
            return Err(format!("not a CredentialProviderResponse of {version}"));
        }
        let cache = match response.cache_duration.as_deref() {
            None => None,
            Some(text) => Some(duration::parse(text).ok_or("cacheDuration is no duration")?),
        };
        Ok(Self { key: response.cache_key_type, cache, auth: response.auth.unwrap_or_default() })
    }

    /// The credential for `image`: that of the key which says most.
    pub(super) fn credential(&self, image: &str) -> Credential {
        // As the kubelet does it: in reverse order, longer paths come before their beginnings.
        let found = self.auth.iter().rev().find(|(key, _)| is_for(key, image));
        found.map_or(Credential::Anonymous, |(_, login)| Credential::Basic {
            user: login.username.clone(),
            password: login.password.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

    fn answer(rest: &str) -> Result<Answer, String> {
        let text = format!(r#"{{"kind": "CredentialProviderResponse", "apiVersion": "{VERSION}", {rest}}}"#);
        Answer::parse(text.as_bytes(), VERSION)
    }

    #[test]
    fn the_key_that_says_most_counts() {
        let text = r#""cacheKeyType": "Registry", "cacheDuration": "6h", "auth": {
            "*.r.test": {"username": "all", "password": "p"}, "a.r.test/team": {"username": "team", "password": "p"},
            "a.r.test": {"username": "a", "password": "p"}}"#;
        let answer = answer(text).unwrap();
        assert_eq!((answer.key, answer.cache), (CacheKey::Registry, Some(Duration::from_hours(6))));
        let user = |image: &str| match answer.credential(image) {
            Credential::Basic { user, .. } => user,
            other => format!("{other:?}"),
        };
        assert_eq!(user("a.r.test/team/x"), "team");
        assert_eq!(user("a.r.test/other"), "a");
        assert_eq!(user("b.r.test/x"), "all");
        assert_eq!(user("other.test/x"), "Anonymous");
        assert!(!format!("{answer:?}").contains("\"p\""));
    }

    #[test]
    fn what_is_no_answer_is_told_without_quoting_it() {
        for (rest, said) in [
            (r#""cacheKeyType": "Pod""#, "not a CredentialProviderResponse"),
            (r#""cacheKeyType": "Image", "cacheDuration": "-1s""#, "no duration"),
            (r#""auth": "secret""#, "not a CredentialProviderResponse"),
        ] {
            let error = answer(rest).unwrap_err();
            assert!(error.contains(said) && !error.contains("secret"), "{error}");
        }
        let other = answer(r#""cacheKeyType": "Image""#).map(|answer| answer.auth.len());
        assert_eq!(other, Ok(0), "a provider may have nothing");
        let text = r#"{"kind": "CredentialProviderResponse", "apiVersion": "v2", "cacheKeyType": "Image"}"#;
        assert!(Answer::parse(text.as_bytes(), VERSION).is_err());
    }
}
