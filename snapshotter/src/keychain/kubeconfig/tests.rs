//! Against an API server of two pages, over plain HTTP on the loopback interface.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tempfile::TempDir;

use super::*;

#[derive(Default)]
struct Api {
    lists: AtomicU32,
    password: AtomicU32,
    forbids: std::sync::atomic::AtomicBool,
}

async fn answer(
    State(api): State<Arc<Api>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> (StatusCode, String) {
    let query = query.unwrap_or_default();
    assert!(query.contains("fieldSelector=type%3Dkubernetes.io%2Fdockerconfigjson"), "{query}");
    if api.forbids.load(SeqCst) || headers["authorization"] != "Bearer t0ken" {
        return (StatusCode::FORBIDDEN, json!({ "message": "secrets is forbidden" }).to_string());
    }
    let secret = |text: String| json!({ "data": { ".dockerconfigjson": STANDARD.encode(text) } });
    let of = |host: &str, password: u32| {
        let password = password.to_string();
        secret(json!({ "auths": { host: { "username": "u", "password": password } } }).to_string())
    };
    let list = if query.contains("continue=page2") {
        api.lists.fetch_add(1, SeqCst);
        json!({ "metadata": {}, "items": [of("r.test/team", api.password.load(SeqCst)), of("r.test", 99)] })
    } else {
        json!({ "metadata": { "continue": "page2" }, "items": [{}, secret("not json".to_owned()), of("other.test", 0)] })
    };
    (StatusCode::OK, list.to_string())
}

async fn place(user: &str) -> (Arc<Api>, Kubeconfig, TempDir) {
    rustls::crypto::ring::default_provider().install_default().ok();
    let api = Arc::new(Api::default());
    let router = Router::new().route("/api/v1/secrets", get(answer)).with_state(Arc::clone(&api));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    let text = format!(
        "current-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: \"http://{address}\"}}}}]\nusers: [{{name: u, user: {user}}}]\n"
    );
    std::fs::write(&path, text).unwrap();
    (api, Kubeconfig::new(path), dir)
}

fn login(password: u32) -> Credential {
    Credential::Basic { user: "u".to_owned(), password: password.to_string() }
}

async fn ask(kubeconfig: &Kubeconfig, host: &str, repository: &str, refused: &[Credential]) -> Credential {
    kubeconfig.credential(host, repository, refused).await.unwrap().credential
}

#[tokio::test]
async fn secrets_are_listed_once_for_many_questions_and_again_when_one_is_refused() {
    let (api, kubeconfig, _dir) = place("{token: t0ken}").await;
    assert_eq!(ask(&kubeconfig, "r.test", "team/x", &[]).await, login(0));
    assert_eq!(ask(&kubeconfig, "r.test", "x", &[]).await, login(99));
    assert_eq!(ask(&kubeconfig, "none.test", "x", &[]).await, Credential::Anonymous);
    assert_eq!(
        ask(&kubeconfig, "r.test", "team/x", &[login(0)]).await,
        login(99),
        "another secret has one, too"
    );
    assert_eq!(api.lists.load(SeqCst), 1);

    api.password.store(1, SeqCst);
    let past = Instant::now().checked_sub(REST).unwrap();
    kubeconfig.listed.lock().await.last = Some((past, true));
    assert_eq!(ask(&kubeconfig, "r.test", "team/x", &[]).await, login(0), "the list is young enough");
    let refused = [login(0), login(99)];
    assert_eq!(ask(&kubeconfig, "r.test", "team/x", &refused).await, login(1));
    assert_eq!(api.lists.load(SeqCst), 2);

    api.forbids.store(true, SeqCst);
    let past = Instant::now().checked_sub(KEPT).unwrap();
    kubeconfig.listed.lock().await.last = Some((past, true));
    assert_eq!(ask(&kubeconfig, "r.test", "team/x", &[]).await, login(1), "the last list stays");
    let past = Instant::now().checked_sub(KEPT).unwrap();
    kubeconfig.listed.lock().await.last = Some((past, true));
    let error = kubeconfig.credential("none.test", "x", &[]).await.unwrap_err().to_string();
    assert!(error.contains("403") && error.contains("secrets is forbidden"), "{error}");
}

#[tokio::test]
async fn a_kubeconfig_that_comes_later_and_a_program_that_gives_the_token() {
    let exec = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/sh, args: [-c, \
        'test -n \"$KUBERNETES_EXEC_INFO\" && echo \"{\\\"status\\\": {\\\"token\\\": \\\"$T\\\"}}\"'], env: [{name: T, value: t0ken}]}}";
    let (_api, kubeconfig, dir) = place(exec).await;
    let (path, later) = (dir.path().join("config"), dir.path().join("later"));
    std::fs::rename(&path, &later).unwrap();
    assert!(kubeconfig.credential("r.test", "x", &[]).await.is_err());
    std::fs::rename(&later, &path).unwrap();
    kubeconfig.listed.lock().await.last = None;
    assert_eq!(ask(&kubeconfig, "r.test", "x", &[]).await, login(99));
}
