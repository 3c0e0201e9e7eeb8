//! The referrers API of the [`TestRegistry`](super::TestRegistry), in all its forms.
//!
//! Owns no state of its own.

use std::collections::BTreeMap;

use axum::response::Response;
use http::StatusCode;
use http::header::{CONTENT_TYPE, LINK};
use serde_json::{Value, json};
use soci_core::digest::Digest;

use super::serve::{Asked, finish, refuse, reply};
use super::{Referrers, Server, State};

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(super) fn referrers(state: &State, asked: &Asked, repository: &str, subject: &str) -> Response {
    let habits = state.habits();
    match habits.referrers {
        Referrers::Status(status) => {
            return refuse(StatusCode::from_u16(status).expect("a test's status is valid"), "UNSUPPORTED");
        }
        Referrers::Html => {
            let page = reply(StatusCode::OK).header(CONTENT_TYPE, "text/html");
            return finish(page, "<!doctype html><title>Where to?</title>");
        }
        Referrers::False => return finish(reply(StatusCode::OK).header(CONTENT_TYPE, OCI_INDEX), "false"),
        _ => {}
    }
    let content = state.content.lock();
    let mut found = BTreeMap::new();
    for ((own, _), (media_type, raw)) in content.manifests.iter().filter(|((own, _), _)| own == repository) {
        let parsed: Value = serde_json::from_slice(raw).unwrap_or_default();
        let artifact_type = parsed["artifactType"].as_str().or(parsed["config"]["mediaType"].as_str());
        let wanted = asked.query.get("artifactType");
        if parsed["subject"]["digest"] == subject && wanted.is_none_or(|wanted| artifact_type == Some(wanted))
        {
            let digest = Digest::of(raw).to_string();
            let size = raw.len() + if habits.referrers == Referrers::WrongSize { 17 } else { 0 };
            let descriptor = json!({ "mediaType": media_type, "digest": digest, "size": size,
                "artifactType": artifact_type, "annotations": parsed["annotations"] });
            found.insert(format!("{own} {digest}"), descriptor);
        }
    }
    if habits.referrers == Referrers::Odd {
        for (at, odd) in odd_descriptors().into_iter().enumerate() {
            found.insert(format!("\0{at}"), odd);
        }
    }
    let page = match habits.referrers {
        Referrers::BareLink | Referrers::AbsoluteLink | Referrers::OtherLink => 1,
        _ if habits.referrers_page == 0 => usize::MAX,
        _ => habits.referrers_page,
    };
    let start: usize = asked.query.get("start").and_then(|start| start.parse().ok()).unwrap_or(0);
    let manifests: Vec<_> = found.values().skip(start).take(page).collect();
    let media_type = if habits.referrers == Referrers::Json { "application/json" } else { OCI_INDEX };
    let mut answer = reply(StatusCode::OK).header(CONTENT_TYPE, media_type);
    let next = start.saturating_add(page);
    if next < found.len() {
        let filter = asked
            .query
            .get("artifactType")
            .map(|wanted| format!("&artifactType={}", wanted.replace('+', "%2B")));
        let next = format!("/v2/{repository}/referrers/{subject}?start={next}{}", filter.unwrap_or_default());
        let link = match habits.referrers {
            Referrers::BareLink => next,
            Referrers::AbsoluteLink => format!("<http://{}{next}>", state.host(Server::Registry)),
            Referrers::OtherLink => format!("<https://registry.internal:5000{next}>"),
            _ => format!("<{next}>"),
        };
        answer = answer.header(LINK, format!("{link}; rel=\"next\""));
    }
    let manifests = match habits.referrers {
        Referrers::NullList if manifests.is_empty() => Value::Null,
        _ => json!(manifests),
    };
    finish(answer, json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests }).to_string())
}

/// What other tools list beside ours.
fn odd_descriptors() -> Vec<Value> {
    let sha512 = format!("sha512:{}", "ab".repeat(64));
    vec![
        json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sha512, "size": 7 }),
        json!({ "mediaType": null, "digest": null, "size": null }),
        json!({ "mediaType": "a/b", "digest": "md5:00", "size": -1, "annotations": null }),
        json!(null),
        json!("text"),
        json!({}),
    ]
}
