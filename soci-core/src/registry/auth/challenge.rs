//! WWW-Authenticate: what a registry wants to see.
//!
//! Owns no state. Input is hostile: anything that does not parse is no challenge.

use reqwest::Url;

/// A challenge that we can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with every request.
    Basic,
    /// A token from the server at `realm`.
    Bearer { realm: Url, service: Option<String>, scope: Option<String> },
}

/// The kind of a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    Basic,
    Bearer,
}

impl Challenge {
    /// Its kind.
    pub(super) fn scheme(&self) -> Scheme {
        match self {
            Self::Basic => Scheme::Basic,
            Self::Bearer { .. } => Scheme::Bearer,
        }
    }

    /// The challenges in the values of all WWW-Authenticate headers of an answer that we can answer: Bearer before Basic.
    pub(crate) fn all(headers: &[String]) -> Vec<Self> {
        let (mut bearer, mut basic) = (Vec::new(), Vec::new());
        for challenge in
            headers.iter().filter_map(|header| http_auth::parse_challenges(header).ok()).flatten()
        {
            let param = |name: &str| {
                let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                let realm = param("realm").and_then(|realm| Url::parse(&realm).ok());
                if let Some(realm) = realm.filter(|realm| matches!(realm.scheme(), "http" | "https")) {
                    bearer.push(Self::Bearer { realm, service: param("service"), scope: param("scope") });
                }
            } else if challenge.scheme.eq_ignore_ascii_case("basic") && basic.is_empty() {
                basic.push(Self::Basic);
            }
        }
        bearer.append(&mut basic);
        bearer
    }

    /// Whether `other` is answered in the same way: by the same server, for whatever scope.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Basic, Self::Basic) => true,
            (
                Self::Bearer { realm, service, .. },
                Self::Bearer { realm: other_realm, service: other_service, .. },
            ) => realm == other_realm && service == other_service,
            _ => false,
        }
    }

    /// The scope that it names.
    pub(crate) fn scope(&self) -> &str {
        match self {
            Self::Bearer { scope, .. } => scope.as_deref().unwrap_or_default(),
            Self::Basic => "",
        }
    }

    /// The same for another repository of the registry: the scope was for one repository only.
    pub(crate) fn without_scope(self) -> Self {
        match self {
            Self::Bearer { realm, service, .. } => Self::Bearer { realm, service, scope: None },
            Self::Basic => Self::Basic,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(headers: &[&str]) -> Option<Challenge> {
        let all = Challenge::all(&headers.iter().map(|header| (*header).to_owned()).collect::<Vec<_>>());
        all.into_iter().next()
    }

    #[test]
    fn bearer_with_commas_inside_quotes() {
        let header =
            r#"Bearer realm="https://auth.test/token",service="r.test",scope="repository:a/b:pull,push""#;
        let Some(Challenge::Bearer { realm, service, scope }) = choose(&[header]) else {
            panic!("not a bearer challenge");
        };
        assert_eq!(realm.as_str(), "https://auth.test/token");
        assert_eq!(service.as_deref(), Some("r.test"));
        assert_eq!(scope.as_deref(), Some("repository:a/b:pull,push"));
    }

    #[test]
    fn bearer_is_preferred_over_basic() {
        let bearer = r#"bearer realm="https://auth.test/token""#;
        assert!(matches!(choose(&[r#"Basic realm="x""#, bearer]), Some(Challenge::Bearer { .. })));
        assert_eq!(choose(&[r#"basic realm="x""#]), Some(Challenge::Basic));
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_survived(header in r#"(Bearer |Basic |realm=|scope=|"|,|=|\\|[a-z:/.]|\PC){0,40}"#) {
            let _ = choose(&[&header]);
        }
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for header in [
            "",
            "Bearer",
            "Bearer realm=",
            r#"Bearer realm="ftp://x/""#,
            "Negotiate",
            "\"",
            "Bearer realm=\"x",
        ] {
            assert_eq!(choose(&[header]), None, "{header}");
        }
    }
}
