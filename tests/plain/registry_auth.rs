//! Credentials and challenges at registries with manners of their own: what worked is not replaced by what fails.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use harness::faults::{Fault, When};
use harness::registry::{AuthMode, Habits, PASSWORD, Server, TestRegistry, USER};
use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::media_type::OCI_MANIFEST;
use soci_core::registry::{
    Content, Credential, DockerConfig, FixedCredential, HostPolicy, Issued, Keychain, KeychainError,
    Registry, RegistryError, RegistryOptions, Repository, RetryPolicy,
};

fn scene(auth: AuthMode) -> TestRegistry {
    TestRegistry::with(Habits { auth, ..Habits::default() })
}

fn options(registry: &TestRegistry, known: bool) -> RegistryOptions {
    let mut options = RegistryOptions {
        retry: RetryPolicy { max_retries: 3, min_wait: Duration::from_millis(1), ..RetryPolicy::default() },
        ..RegistryOptions::default()
    };
    if known {
        let credential = Credential::Basic { user: USER.to_owned(), password: PASSWORD.to_owned() };
        options.keychain = Arc::new(FixedCredential::new(registry.host(), credential));
    }
    options
}

fn repository(registry: &TestRegistry, options: RegistryOptions) -> Repository {
    Registry::new(options).repository(&registry.image("team/name").parse().unwrap())
}

#[tokio::test]
async fn another_kind_of_challenge_after_expiry_does_not_end_what_worked() {
    for known in [false, true] {
        let registry = scene(AuthMode::BearerThenBasic);
        let blob = registry.put_blob("content");
        let repository = repository(&registry, options(&registry, known));
        for _ in 0..3 {
            assert_eq!(repository.blob(&blob, 100).await.unwrap(), "content", "known user: {known}");
            registry.revoke_tokens();
        }
        assert_eq!(registry.count(Server::Tokens), 3, "one exchange each time, known user: {known}");
    }
}

#[tokio::test]
async fn a_registry_that_goes_over_to_basic_is_followed() {
    let registry = scene(AuthMode::Bearer);
    let blob = registry.put_blob("content");
    let repository = repository(&registry, options(&registry, true));
    repository.blob(&blob, 100).await.unwrap();
    registry.change(|habits| habits.auth = AuthMode::Basic);
    assert_eq!(repository.blob(&blob, 100).await.unwrap(), "content");
    registry.forget_requests();
    assert_eq!(repository.blob(&blob, 100).await.unwrap(), "content");
    assert_eq!(registry.requests().len(), 1, "what worked last is shown at once");
}

/// A source whose first credential is stale, and that gets another one when it hears so.
#[derive(Debug, Default)]
struct Renewed(Mutex<Vec<Vec<Credential>>>);

impl Keychain for Renewed {
    fn credential<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        refused: &'a [Credential],
    ) -> Pin<Box<dyn Future<Output = Result<Issued, KeychainError>> + Send + 'a>> {
        let password = if refused.is_empty() { "stale" } else { PASSWORD };
        self.0.lock().push(refused.to_vec());
        let credential = Credential::Basic { user: USER.to_owned(), password: password.to_owned() };
        Box::pin(async { Ok(Issued { credential, lifetime: Some(Duration::from_hours(6)) }) })
    }
}

#[tokio::test]
async fn a_refused_credential_is_asked_for_again() {
    for auth in [AuthMode::Basic, AuthMode::Bearer] {
        let registry = scene(auth);
        let blob = registry.put_blob("content");
        let keychain = Arc::new(Renewed::default());
        let options =
            RegistryOptions { keychain: Arc::<Renewed>::clone(&keychain), ..options(&registry, false) };
        let repository = repository(&registry, options);
        for _ in 0..2 {
            assert_eq!(repository.blob(&blob, 100).await.unwrap(), "content", "{auth:?}");
        }
        let asked = keychain.0.lock().clone();
        assert_eq!(asked.len(), 2, "{auth:?}: once, and once more for the refused one: {asked:?}");
        assert!(matches!(&asked[1][..], [Credential::Basic { password, .. }] if password == "stale"));
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let registry = scene(AuthMode::Bearer);
    registry.change(|habits| habits.token_lifetime = 2);
    let blob = registry.put_blob("content");
    let repository = repository(&registry, options(&registry, true));
    repository.blob(&blob, 100).await.unwrap();
    registry.forget_requests();
    // Nine tenths of its life are over.
    tokio::time::sleep(Duration::from_millis(1850)).await;
    assert_eq!(repository.blob(&blob, 100).await.unwrap(), "content");
    let requests = registry.requests();
    assert!(requests.iter().all(|request| request.status == 200), "{requests:?}");
    assert_eq!(registry.count(Server::Tokens), 1, "{requests:?}");
}

#[tokio::test]
async fn a_push_asks_for_pull_and_push_at_once() {
    let registry = scene(AuthMode::BearerForPull);
    let repository = repository(&registry, options(&registry, true));
    let blob = Bytes::from_static(b"content");
    let digest = Digest::of(&blob);
    assert!(repository.push_blob(&digest, Content::Bytes(blob)).await.unwrap());
    repository.push_manifest("v1", OCI_MANIFEST, b"{}").await.unwrap();
    repository.blob(&digest, 100).await.unwrap();
    let requests = registry.requests();
    assert!(requests.iter().all(|request| request.status != 403), "{requests:?}");
    let asked: Vec<_> =
        requests.iter().filter(|one| one.server == Server::Tokens).map(|one| &one.path).collect();
    assert_eq!(asked.len(), 2, "one token for pushing, one for pulling: {asked:?}");
    assert!(asked[0].contains("pull%2Cpush"), "{asked:?}");
}

#[tokio::test]
async fn retries_of_tokens_and_of_what_they_are_for_are_one_budget() {
    let registry = scene(AuthMode::Bearer);
    let blob = registry.put_blob("content");
    registry.faults().add(When::always().on(Server::Tokens), Fault::Status(503, None));
    let error = repository(&registry, options(&registry, true)).blob(&blob, 100).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }), "{error:?}");
    // The first attempt meets the challenge; each further one knows it.
    assert!(registry.count(Server::Tokens) <= 4, "{:?}", registry.requests());
}

#[tokio::test]
async fn a_public_repository_is_read_although_a_private_one_asked_for_a_password() {
    let registry = scene(AuthMode::Basic);
    let blob = registry.put_blob("content");
    let client = Registry::new(options(&registry, false));
    let private = client.repository(&registry.image("team/private").parse().unwrap());
    assert!(matches!(private.blob(&blob, 100).await, Err(RegistryError::Unauthorized { .. })));
    registry.change(|habits| habits.auth = AuthMode::Open);
    let public = client.repository(&registry.image("team/public").parse().unwrap());
    assert_eq!(public.blob(&blob, 100).await.unwrap(), "content");
}

#[tokio::test]
async fn no_request_has_two_credentials() {
    for auth in [AuthMode::Basic, AuthMode::Bearer] {
        let registry = scene(auth);
        let blob = registry.put_blob("content");
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join(registry.host());
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("hosts.toml"), "[header]\nauthorization = \"Bearer fixed\"\n").unwrap();
        let hosts = HostPolicy { dirs: vec![folder.path().to_owned()], ..HostPolicy::default() };
        let repository = repository(&registry, RegistryOptions { hosts, ..options(&registry, true) });
        assert_eq!(repository.blob(&blob, 100).await.unwrap(), "content", "{auth:?}");
        let asked = registry.requests();
        assert!(asked.iter().all(|request| request.credentials <= 1), "{asked:?}");
        assert!(asked[0].authorized, "the fixed one is shown until another is asked for");
    }
}

#[tokio::test]
async fn keys_with_paths_are_for_the_repositories_below_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    // base64 of NAME:pw
    std::fs::write(
        &path,
        r#"{"auths": {
            "r.test/a": {"auth": "YTpwdw=="}, "r.test/a/deep": {"auth": "ZGVlcDpwdw=="},
            "r.test/b/": {"auth": "Yjpwdw=="}, "r.test": {"auth": "aG9zdDpwdw=="}, "r.test/none": {},
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"}, "docker.io/team": {"auth": "dGVhbTpwdw=="},
            "only.test/a": {"auth": "YTpwdw=="}}}"#,
    )
    .unwrap();
    let keychain = DockerConfig::new(&path);
    let user = async |host: &str, repository: &str| match keychain
        .credential(host, repository, &[])
        .await
        .unwrap()
        .credential
    {
        Credential::Basic { user, .. } => user,
        other => format!("{other:?}"),
    };
    for (host, repository, expected) in [
        ("r.test", "a/x", "a"),
        ("r.test", "a", "a"),
        ("r.test", "a/deep/x", "deep"),
        ("r.test", "ab/x", "host"),
        ("r.test", "b/img", "b"),
        ("r.test", "none/x", "host"),
        ("r.test", "c", "host"),
        ("r.test:5000", "a/x", "Anonymous"),
        ("index.docker.io", "team/x", "team"),
        ("index.docker.io", "library/x", "hub"),
        ("only.test", "b/x", "Anonymous"),
    ] {
        assert_eq!(user(host, repository).await, expected, "{host}/{repository}");
    }
}

#[tokio::test]
async fn a_credential_helper_that_is_not_installed_leaves_public_images_alone() {
    let registry = scene(AuthMode::BearerForAll);
    let blob = registry.put_blob("content");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    for config in [
        r#"{"credsStore": "not-installed-anywhere"}"#.to_owned(),
        format!(r#"{{"credHelpers": {{"{}": "not-installed-anywhere"}}}}"#, registry.host()),
    ] {
        std::fs::write(&path, config).unwrap();
        let options = RegistryOptions {
            keychain: Arc::new(DockerConfig::new(&path)) as Arc<dyn Keychain>,
            ..options(&registry, false)
        };
        assert_eq!(repository(&registry, options).blob(&blob, 100).await.unwrap(), "content");
    }
}
