//! Exchange of a credential for a bearer token (Docker token specification and its OAuth2 form).
//!
//! Owns no state. Invariant: the credential goes to the realm given and nowhere else: redirects of a token
//! server are refused.

use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method};
use reqwest::Url;
use serde::Deserialize;

use super::Credential;
use crate::registry::content::Content;
use crate::registry::error::{RegistryError, printable};
use crate::registry::link::Link;
use crate::registry::traffic::RequestKind;
use crate::registry::wire::{Call, Wire};

/// Longest answer of a token server, in bytes.
const MAX_ANSWER: u64 = 256 << 10;
/// Lifetime of a token whose server does not say one (Docker token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_mins(1);
/// Longest time a token is used.
const MAX_LIFETIME: Duration = Duration::from_hours(24);

/// What to ask of which token server.
pub(super) struct Request<'a> {
    pub(super) realm: &'a Url,
    pub(super) link: &'a Link,
    pub(super) service: Option<&'a str>,
    pub(super) scope: &'a str,
}

/// A token, and how long it lives.
pub(super) struct Token {
    pub(super) value: String,
    pub(super) lifetime: Duration,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    #[serde(default)]
    expires_in: serde_json::Value,
}

/// Asks the token server, once: whoever needs the token tries again by itself, if it is worth it, and two that do so multiply.
pub(super) async fn exchange(
    wire: &Wire,
    request: &Request<'_>,
    credential: &Credential,
) -> Result<Token, RegistryError> {
    let mut call = Call::get(request.realm.clone(), RequestKind::Token, request.link);
    if let Credential::IdentityToken(refresh_token) = credential {
        let mut form = Url::parse("form:").map_err(|_| RegistryError::protocol(request.realm, "no form"))?;
        form.query_pairs_mut()
            .append_pair("grant_type", "refresh_token")
            .append_pair("service", request.service.unwrap_or_default())
            .append_pair("client_id", "soci")
            .append_pair("scope", request.scope)
            .append_pair("refresh_token", refresh_token);
        call.method = Method::POST;
        call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        call.content = Content::Bytes(form.query().unwrap_or_default().to_owned().into());
    } else {
        let mut query = call.url.query_pairs_mut();
        if let Some(service) = request.service {
            query.append_pair("service", service);
        }
        // A scope may hold several, separated by spaces: each is its own parameter.
        for scope in request.scope.split_whitespace() {
            query.append_pair("scope", scope);
        }
        drop(query);
        if let Credential::Basic { user, password } = credential {
            call.headers.insert(AUTHORIZATION, super::basic(user, password, &printable(request.realm))?);
        }
    }
    let reply = wire.once(&call, &call.url, None).await?;
    if reply.status().is_redirection() {
        return Err(RegistryError::protocol(&call.url, format!("{} was redirected", call.method)));
    }
    let reply = reply.into_success().await?;
    let url = reply.url().clone();
    let body = reply.bytes(MAX_ANSWER).await?;
    let answer: Answer = serde_json::from_slice(&body)
        .map_err(|error| RegistryError::protocol(&url, format!("not a token answer: {error}")))?;
    let value = [answer.token, answer.access_token].into_iter().flatten().find(|token| !token.is_empty());
    let value = value.ok_or_else(|| RegistryError::protocol(&url, "token answer without a token"))?;
    Ok(Token { value, lifetime: lifetime(&answer.expires_in) })
}

/// How long a token lives: a number of seconds, also as text or with a fraction. What is not a time from now on says nothing.
fn lifetime(expires_in: &serde_json::Value) -> Duration {
    let seconds = match expires_in {
        serde_json::Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    };
    let seconds = seconds.filter(|seconds: &f64| *seconds > 0.0);
    seconds
        .map_or(DEFAULT_LIFETIME, |seconds| Duration::from_secs_f64(seconds.min(MAX_LIFETIME.as_secs_f64())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_expires_in() {
        let of = |json: &str| lifetime(&serde_json::from_str(json).expect("valid JSON"));
        assert_eq!(of("300"), Duration::from_mins(5));
        assert_eq!(of("300.0"), Duration::from_mins(5));
        assert_eq!(of("0.5"), Duration::from_millis(500));
        assert_eq!(of("\"300\""), Duration::from_mins(5));
        for nothing in ["null", "0", "-1", "\"soon\"", "\"NaN\"", "{}", "true", "\"\""] {
            assert_eq!(of(nothing), DEFAULT_LIFETIME, "{nothing}");
        }
        for long in ["1e300", "18446744073709551616", "\"inf\""] {
            assert_eq!(of(long), MAX_LIFETIME, "{long}");
        }
    }
}
