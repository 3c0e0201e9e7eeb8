//! Who may ask the [`TestRegistry`](super::TestRegistry) what, and its token server.
//!
//! Owns no state of its own.

use axum::response::Response;
use http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde_json::json;

use super::serve::{Asked, finish, pairs, refuse, reply};
use super::{AuthMode, IDENTITY_TOKEN, PASSWORD, Server, State, USER};

/// `None`: may pass.
pub(super) fn authenticate(state: &State, asked: &Asked, repository: &str, action: &str) -> Option<Response> {
    let shown = asked.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let actions = if action == "pull" { "pull".to_owned() } else { format!("pull,{action}") };
    let scope = format!("repository:{repository}:{actions}");
    let mode = state.habits().auth;
    let (challenge, passes) = match mode {
        AuthMode::Open => return None,
        AuthMode::Basic => ("Basic realm=\"test\"".to_owned(), shown == Some(&basic())),
        AuthMode::Bearer | AuthMode::BearerForAll | AuthMode::BearerThenBasic | AuthMode::BearerForPull => {
            let token = shown.and_then(|value| value.strip_prefix("Bearer "));
            let granted = token.and_then(|token| state.content.lock().tokens.get(token).cloned());
            let passes = granted.as_ref().is_some_and(|granted| allows(granted, repository, action));
            if !passes && granted.is_some() && mode == AuthMode::BearerForPull {
                return Some(refuse(StatusCode::FORBIDDEN, "DENIED"));
            }
            let scope = match mode {
                AuthMode::BearerForPull => format!("repository:{repository}:pull"),
                _ => scope,
            };
            let realm = format!("http://{}/token", state.host(Server::Tokens));
            let challenge = match mode {
                AuthMode::BearerThenBasic if token.is_some() => "Basic realm=\"test\"".to_owned(),
                _ => format!("Bearer realm=\"{realm}\",service=\"test\",scope=\"{scope}\""),
            };
            (challenge, passes || mode == AuthMode::BearerThenBasic && shown == Some(&basic()))
        }
    };
    if passes {
        return None;
    }
    let mut refusal = refuse(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
    refusal.headers_mut().insert(WWW_AUTHENTICATE, challenge.parse().expect("our own challenge"));
    Some(refusal)
}

/// Whether a token's scope has `action` for the repository.
fn allows(granted: &str, repository: &str, action: &str) -> bool {
    granted.split_whitespace().any(|scope| {
        let actions = scope.strip_prefix(&format!("repository:{repository}:"));
        actions.is_some_and(|actions| actions.split(',').any(|one| one == action))
    })
}

/// The Authorization header of the known user.
fn basic() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::from("Basic ");
    for three in format!("{USER}:{PASSWORD}").as_bytes().chunks(3) {
        let word =
            three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let index = (word >> (18 - 6 * digit) & 63) as usize;
            encoded.push(if digit > three.len() { '=' } else { char::from(DIGITS[index]) });
        }
    }
    encoded
}

pub(super) fn tokens(state: &State, asked: &Asked, query: &str) -> Response {
    let form = pairs(&String::from_utf8_lossy(&asked.body));
    let known = match asked.method {
        Method::POST => form.get("refresh_token").is_some_and(|token| token == IDENTITY_TOKEN),
        _ => asked.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes() == basic().as_bytes()),
    };
    let wanted = if asked.method == Method::POST {
        form.get("scope").cloned()
    } else {
        pairs(query).get("scope").cloned()
    };
    let scope = wanted.unwrap_or_default();
    let public = matches!(state.habits().auth, AuthMode::BearerForAll | AuthMode::BearerThenBasic)
        && !asked.headers.contains_key(AUTHORIZATION);
    if !known && !public {
        return refuse(StatusCode::UNAUTHORIZED, "UNAUTHORIZED");
    }
    let granted = if known { scope } else { scope.replace(",push", "").replace(",delete", "") };
    let token = format!("token-{}", state.next_serial());
    state.content.lock().tokens.insert(token.clone(), granted);
    let answer = json!({ "token": token, "expires_in": state.habits().token_lifetime });
    finish(reply(StatusCode::OK).header(CONTENT_TYPE, "application/json"), answer.to_string())
}
