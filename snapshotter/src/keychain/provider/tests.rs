//! Providers that are small scripts, asked as the kubelet asks.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const VERSION: &str = "credentialprovider.kubelet.k8s.io/v1";

struct Place {
    dir: TempDir,
    providers: CredentialProviders,
}

impl Place {
    /// A provider `script` for `*.test`, whose answers are kept by `key` for `duration` (`null`: not said).
    fn new(key: &str, duration: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
            "providers": [{
                "name": "script", "matchImages": ["*.test"], "defaultCacheDuration": "1h", "apiVersion": VERSION,
                "args": ["--flag"], "env": [{ "name": "GREETING", "value": "hello" }],
            }],
        });
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let place = Self {
            providers: CredentialProviders::new(ProviderOptions {
                config: dir.path().join("config.json"),
                programs: dir.path().to_owned(),
            }),
            dir,
        };
        let path = place.dir.path().display();
        place.program(&format!(
            "cat >> {path}/asked\necho \"$GREETING $*\" > {path}/called\nn=$(wc -l < {path}/asked)\n\
             echo \"{{\\\"kind\\\": \\\"CredentialProviderResponse\\\", \\\"apiVersion\\\": \\\"{VERSION}\\\", \
             \\\"cacheKeyType\\\": \\\"{key}\\\", \\\"cacheDuration\\\": {}, \
             \\\"auth\\\": {{\\\"*.test\\\": {{\\\"username\\\": \\\"u\\\", \\\"password\\\": \\\"$n\\\"}}}}}}\"",
            duration.replace('"', "\\\"")
        ));
        place
    }

    fn program(&self, body: &str) {
        let path = self.dir.path().join("script");
        // Not written in place: it may be running.
        fs::write(path.with_extension("new"), format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(path.with_extension("new"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    fn asked(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.path().join("asked")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn ask(&self, host: &str, repository: &str, refused: &[Credential]) -> Issued {
        self.providers.credential(host, repository, refused).await.unwrap()
    }
}

fn number(number: u32) -> Credential {
    Credential::Basic { user: "u".to_owned(), password: number.to_string() }
}

#[tokio::test]
async fn a_provider_is_asked_as_the_kubelet_asks_and_its_answer_kept_as_it_says() {
    for (key, other_image, other_registry) in [("Image", 2, 3), ("Registry", 1, 2), ("Global", 1, 1)] {
        let place = Place::new(key, "\"6h\"");
        let first = place.ask("a.test", "team/x", &[]).await;
        assert_eq!(first.credential, number(1));
        let left = first.lifetime.unwrap();
        assert!(left <= Duration::from_hours(6) && left > Duration::from_hours(5), "{left:?}");
        assert_eq!(place.ask("a.test", "team/x", &[]).await.credential, number(1), "{key}: kept");
        assert_eq!(place.ask("a.test", "team/y", &[]).await.credential, number(other_image), "{key}");
        assert_eq!(place.ask("b.test", "team/x", &[]).await.credential, number(other_registry), "{key}");
        let expected =
            json!({ "apiVersion": VERSION, "kind": "CredentialProviderRequest", "image": "a.test/team/x" });
        assert_eq!(place.asked()[0], expected);
        assert_eq!(fs::read_to_string(place.dir.path().join("called")).unwrap(), "hello --flag\n");
        assert_eq!(place.ask("other.io", "x", &[]).await.credential, Credential::Anonymous);
        assert_eq!(place.asked().len(), other_registry as usize, "it is not for that image");
    }
}

#[tokio::test]
async fn answers_that_are_not_to_be_kept_and_refused_ones_are_asked_for_again() {
    let place = Place::new("Image", "\"0s\"");
    for n in 1..4 {
        let issued = place.ask("a.test", "x", &[]).await;
        assert_eq!((issued.credential, issued.lifetime), (number(n), Some(Duration::ZERO)));
    }
    let place = Place::new("Registry", "null");
    let issued = place.ask("a.test", "x", &[]).await;
    assert!(issued.lifetime.unwrap() <= Duration::from_hours(1), "the configuration says how long");
    assert_eq!(place.ask("a.test", "x", &[number(7)]).await.credential, number(1));
    assert_eq!(place.ask("a.test", "x", &[number(1)]).await.credential, number(2));
    assert_eq!(place.ask("a.test", "x", &[]).await.credential, number(2));
}

#[tokio::test]
async fn a_provider_that_fails_says_why_and_no_secret_and_rests() {
    let place = Place::new("Image", "null");
    let path = place.dir.path().display().to_string();
    let error = async |host: &str| place.providers.credential(host, "x", &[]).await.unwrap_err().to_string();
    place.program(&format!("echo >> {path}/runs; echo no network >&2; exit 1"));
    assert!(error("a.test").await.contains("no network"));
    assert!(error("a.test").await.contains("no network"));
    assert_eq!(fs::read_to_string(format!("{path}/runs")).unwrap().lines().count(), 1, "it rests");
    place.providers.said.lock().clear();
    place.program("echo '{\"auth\": \"s3cret\"}'");
    let said = error("a.test").await;
    assert!(said.contains("not a CredentialProviderResponse") && !said.contains("s3cret"), "{said}");
    fs::write(place.dir.path().join("config.json"), "kind: nothing").unwrap();
    assert!(error("a.test").await.contains("config.json"));
    fs::remove_file(place.dir.path().join("config.json")).unwrap();
    assert!(error("a.test").await.contains("cannot read"));
}

#[tokio::test]
async fn an_answer_is_renewed_before_its_time_is_over_and_used_while_that_fails() {
    let place = Place::new("Registry", "\"1h\"");
    place.ask("a.test", "x", &[]).await;
    let nearly_over = async || {
        let said = Arc::clone(&place.providers.said.lock()["script"]);
        said.lock().await.kept.get_mut("a.test").unwrap().renew = Instant::now();
    };
    nearly_over().await;
    assert_eq!(place.ask("a.test", "x", &[]).await.credential, number(2));
    nearly_over().await;
    place.program("exit 1");
    for _ in 0..2 {
        let issued = place.ask("a.test", "x", &[]).await;
        assert_eq!(issued.credential, number(2), "the old one is still good");
        assert!(issued.lifetime.unwrap() > Duration::from_mins(50));
    }
}

#[tokio::test]
async fn many_who_ask_at_once_start_one_program() {
    let place = Place::new("Registry", "\"1h\"");
    let all: Vec<_> = (0..8).map(|number| format!("team/{number}")).collect();
    let asking = all.iter().map(|repository| place.ask("a.test", repository, &[]));
    let issued = futures_util::future::join_all(asking).await;
    assert!(issued.iter().all(|issued| issued.credential == number(1)));
    assert_eq!(place.asked().len(), 1);
}

#[test]
fn nothing_secret_is_shown() {
    let text = json!({ "kind": "CredentialProviderResponse", "apiVersion": VERSION, "cacheKeyType": "Global",
        "auth": { "a.test": { "username": "u", "password": "s3cret" } } });
    let answer = Answer::parse(text.to_string().as_bytes(), VERSION).unwrap();
    let now = Instant::now();
    assert!(!format!("{:?}", Kept { answer, renew: now, until: now }).contains("s3cret"));
}
