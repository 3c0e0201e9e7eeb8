//! The registry client's other duties: authentication, referrers, push.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use harness::faults::{Fault, When};
use harness::registry::{AuthMode, Habits, IDENTITY_TOKEN, PASSWORD, Referrers, Server, TestRegistry, USER};
use soci_core::digest::Digest;
use soci_core::image::Descriptor;
use soci_core::media_type::{OCI_INDEX, OCI_MANIFEST, SOCI_INDEX_V1};
use soci_core::registry::{
    Content, Credential, DockerConfig, FixedCredential, Keychain, Referrer, Registry, RegistryError,
    RegistryOptions, Repository, RetryPolicy,
};
use soci_core::units::ByteRange;

fn client(keychain: Option<Arc<dyn Keychain>>) -> Registry {
    let mut options = RegistryOptions {
        retry: RetryPolicy { max_retries: 3, min_wait: Duration::from_millis(1), ..RetryPolicy::default() },
        ..RegistryOptions::default()
    };
    if let Some(keychain) = keychain {
        options.keychain = keychain;
    }
    Registry::new(options)
}

fn with_auth(auth: AuthMode) -> TestRegistry {
    TestRegistry::with(Habits { auth, ..Habits::default() })
}

fn known_user(registry: &TestRegistry) -> Arc<dyn Keychain> {
    let credential = Credential::Basic { user: USER.to_owned(), password: PASSWORD.to_owned() };
    Arc::new(FixedCredential::new(registry.host(), credential))
}

fn repository(client: &Registry, registry: &TestRegistry, name: &str) -> Repository {
    client.repository(&registry.image(name).parse().unwrap())
}

fn servers(registry: &TestRegistry) -> Vec<(Server, u16)> {
    registry.requests().iter().map(|request| (request.server, request.status)).collect()
}

#[tokio::test]
async fn bearer_token_is_fetched_once_and_kept() {
    let registry = with_auth(AuthMode::Bearer);
    let blob = registry.put_blob("content");
    let client = client(Some(known_user(&registry)));
    let first = repository(&client, &registry, "team/first");
    assert_eq!(first.blob(&blob, 100).await.unwrap(), "content");
    assert_eq!(first.blob(&blob, 100).await.unwrap(), "content");
    let expected =
        [(Server::Registry, 401), (Server::Tokens, 200), (Server::Registry, 200), (Server::Registry, 200)];
    assert_eq!(servers(&registry), expected);

    // Another repository needs another token, but no refusal first.
    registry.forget_requests();
    let second = repository(&client, &registry, "team/second");
    assert_eq!(second.blob(&blob, 100).await.unwrap(), "content");
    assert_eq!(servers(&registry), [(Server::Tokens, 200), (Server::Registry, 200)]);
}

#[tokio::test]
async fn an_old_credential_that_is_forbidden_is_obtained_anew() {
    for (fresh, expected) in [(Duration::ZERO, true), (Duration::from_hours(1), false)] {
        let registry = with_auth(AuthMode::Bearer);
        let blob = registry.put_blob("content");
        let client = Registry::new(RegistryOptions {
            keychain: known_user(&registry),
            credential_fresh: fresh,
            ..RegistryOptions::default()
        });
        let repository = repository(&client, &registry, "team/name");
        repository.blob(&blob, 100).await.unwrap();
        registry.forget_requests();
        registry.faults().add_times(When::path(blob.to_string()), Fault::Status(403, None), 1);
        let again = repository.blob(&blob, 100).await;
        assert_eq!(again.is_ok(), expected, "{again:?}");
        let renewed = [(Server::Registry, 403), (Server::Tokens, 200), (Server::Registry, 200)];
        assert_eq!(servers(&registry), renewed[..if expected { 3 } else { 1 }]);
    }
}

#[tokio::test]
async fn concurrent_requests_share_one_token_exchange() {
    let registry = with_auth(AuthMode::Bearer);
    let blob = registry.put_blob("content");
    let client = client(Some(known_user(&registry)));
    let repository = repository(&client, &registry, "team/name");
    let reads: Vec<_> = (0..8)
        .map(|_| {
            let repository = repository.clone();
            tokio::spawn(async move { repository.blob(&blob, 100).await })
        })
        .collect();
    for read in reads {
        assert_eq!(read.await.unwrap().unwrap(), "content");
    }
    assert_eq!(registry.count(Server::Tokens), 1);
}

#[tokio::test]
async fn revoked_token_is_replaced() {
    let registry = with_auth(AuthMode::Bearer);
    let blob = registry.put_blob("content");
    let client = client(Some(known_user(&registry)));
    let fetcher = repository(&client, &registry, "team/name").range_fetcher(blob, 7);
    for _ in 0..2 {
        let mut body = fetcher.fetch(ByteRange::new(0, 7)).await.unwrap();
        assert_eq!(body.chunk().await.unwrap().unwrap(), "content");
        registry.revoke_tokens();
    }
    assert_eq!(registry.count(Server::Tokens), 2);
    assert_eq!(client.traffic().retries(), 0);
}

#[tokio::test]
async fn anonymous_token_is_enough_for_public_pulls_only() {
    let registry = with_auth(AuthMode::BearerForAll);
    let blob = registry.put_blob("content");
    let client = client(None);
    let repository = repository(&client, &registry, "public/name");
    assert_eq!(repository.blob(&blob, 100).await.unwrap(), "content");
    let other = Bytes::from_static(b"other");
    let error = repository.push_blob(&Digest::of(&other), Content::Bytes(other)).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error:?}");
}

#[tokio::test]
async fn basic_and_identity_token_work() {
    for (auth, credential) in [
        (AuthMode::Basic, Credential::Basic { user: USER.to_owned(), password: PASSWORD.to_owned() }),
        (AuthMode::Bearer, Credential::IdentityToken(IDENTITY_TOKEN.to_owned())),
    ] {
        let registry = with_auth(auth);
        let blob = registry.put_blob("content");
        let client = client(Some(Arc::new(FixedCredential::new(registry.host(), credential))));
        let repository = repository(&client, &registry, "team/name");
        assert_eq!(repository.blob(&blob, 100).await.unwrap(), "content", "{auth:?}");
        assert!(repository.blob_exists(&blob).await.unwrap());
    }
}

#[tokio::test]
async fn bad_credentials_are_an_error_of_their_own() {
    for auth in [AuthMode::Basic, AuthMode::Bearer] {
        let registry = with_auth(auth);
        let blob = registry.put_blob("content");
        let wrong = Credential::Basic { user: USER.to_owned(), password: "wrong".to_owned() };
        for keychain in
            [None, Some(Arc::new(FixedCredential::new(registry.host(), wrong)) as Arc<dyn Keychain>)]
        {
            let client = client(keychain);
            let repository = repository(&client, &registry, "team/name");
            let error = repository.blob(&blob, 100).await.unwrap_err();
            assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error:?}");
            // "No referrers" and "not let in" are different things.
            let error = repository.referrers(&blob, None).await.unwrap_err();
            assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn credentials_stay_with_their_registry() {
    // The download server refuses any request with an Authorization header.
    let registry =
        TestRegistry::with(Habits { auth: AuthMode::Bearer, redirect_blobs: true, ..Habits::default() });
    let blob = registry.put_blob("content");
    let client = client(Some(known_user(&registry)));
    let repository = repository(&client, &registry, "team/name");
    assert_eq!(repository.blob(&blob, 100).await.unwrap(), "content");
    assert!(registry.requests().iter().all(|request| request.server != Server::Cdn || !request.authorized));

    // A token server that redirects would carry the password elsewhere.
    let other = TestRegistry::start();
    registry.revoke_tokens();
    let target = format!("http://{}/token", other.host());
    registry.faults().add(When::always().on(Server::Tokens), Fault::RedirectTo(target));
    assert!(repository.blob(&blob, 100).await.is_err());
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn token_server_in_trouble_is_retried() {
    let registry = with_auth(AuthMode::Bearer);
    let blob = registry.put_blob("content");
    let client = client(Some(known_user(&registry)));
    registry.faults().add_times(When::always().on(Server::Tokens), Fault::Status(503, None), 2);
    let repository = repository(&client, &registry, "team/name");
    assert_eq!(repository.blob(&blob, 100).await.unwrap(), "content");
}

#[tokio::test]
async fn docker_config_file_and_helpers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let keychain = DockerConfig::new(&path).with_helper_timeout(Duration::from_secs(5));
    let ask = async |host: &str| keychain.credential(host, "a/b", &[]).await.map(|issued| issued.credential);
    assert_eq!(ask("r.test").await.unwrap(), Credential::Anonymous, "no file is no credential");

    let basic = |user: &str, password: &str| Credential::Basic {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    std::fs::write(
        &path,
        r#"{"auths": {
            "r.test": {"auth": "dXNlcjpwYTpzcw=="},
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "https://other.test/v2/": {"username": "u", "password": "p"},
            "id.test:5000": {"auth": "PHRva2VuPjo=", "identitytoken": "refresh"},
            "empty.test": {}, "bad.test": {"auth": "!"}}}"#,
    )
    .unwrap();
    assert_eq!(ask("r.test").await.unwrap(), basic("user", "pa:ss"));
    assert_eq!(ask("index.docker.io").await.unwrap(), basic("hub", "pw"));
    assert_eq!(ask("other.test").await.unwrap(), basic("u", "p"));
    assert_eq!(ask("id.test:5000").await.unwrap(), Credential::IdentityToken("refresh".to_owned()));
    assert_eq!(ask("empty.test").await.unwrap(), Credential::Anonymous);
    assert_eq!(ask("unknown.test").await.unwrap(), Credential::Anonymous);
    assert!(ask("bad.test").await.is_err());

    std::fs::write(&path, r#"{"credHelpers": {"r.test": "../evil", "x.test": "no-such-helper-anywhere"}}"#)
        .unwrap();
    assert!(ask("r.test").await.is_err());
    assert_eq!(ask("x.test").await.unwrap(), Credential::Anonymous, "as docker goes on without it");
    std::fs::write(&path, "{").unwrap();
    assert!(ask("r.test").await.is_err());
}

#[tokio::test]
async fn helper_that_hangs_is_killed() {
    // A helper is looked for in PATH, which is the process's: the program `docker-credential-*` is put into a
    // folder of its own and reached by a child process of this very test with that PATH.
    let folder = tempfile::tempdir().unwrap();
    let script = |name: &str, text: &str| {
        let path = folder.path().join(format!("docker-credential-{name}"));
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    script(
        "good",
        r#"read host; echo "{\"ServerURL\":\"$host\",\"Username\":\"u\",\"Secret\":\"for-$host\"}""#,
    );
    script("token", r#"echo '{"Username":"<token>","Secret":"refresh"}'"#);
    script("none", "echo 'credentials not found in native keychain'; exit 1");
    script("broken", "echo 'keyring is locked' >&2; exit 1");
    script("garbage", "echo '{\"Secret\": 7'");
    script("hangs", "exec sleep 1000");
    let names = ["good", "token", "none", "broken", "garbage", "hangs"];
    let entries: Vec<_> = names.iter().map(|name| format!("\"{name}.test\": \"{name}\"")).collect();
    std::fs::write(
        folder.path().join("config.json"),
        format!("{{\"credHelpers\": {{{}}}}}", entries.join(",")),
    )
    .unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "helpers_in_path", "--ignored"])
        .env("PATH", path)
        .env("HELPER_TEST_FOLDER", folder.path())
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
#[ignore = "run by helper_that_hangs_is_killed with a PATH that holds the helpers"]
async fn helpers_in_path() {
    let Ok(folder) = std::env::var("HELPER_TEST_FOLDER") else { return };
    let path = std::path::Path::new(&folder).join("config.json");
    let ask = async |host: &str, limit: u64| {
        let keychain = DockerConfig::new(&path).with_helper_timeout(Duration::from_millis(limit));
        keychain.credential(host, "a", &[]).await.map(|issued| issued.credential)
    };
    let good = Credential::Basic { user: "u".to_owned(), password: "for-good.test".to_owned() };
    assert_eq!(ask("good.test", 60_000).await.unwrap(), good);
    assert_eq!(ask("token.test", 60_000).await.unwrap(), Credential::IdentityToken("refresh".to_owned()));
    assert_eq!(ask("none.test", 60_000).await.unwrap(), Credential::Anonymous);
    let error = ask("broken.test", 60_000).await.unwrap_err().to_string();
    assert!(error.contains("keyring is locked"), "{error}");
    assert!(ask("garbage.test", 60_000).await.is_err());
    let error = ask("hangs.test", 200).await.unwrap_err().to_string();
    assert!(error.contains("did not answer"), "{error}");
}

/// A manifest with a subject.
fn referrer(subject: &Digest, artifact_type: &str, number: usize) -> (Descriptor, Vec<u8>) {
    let empty = Digest::of(b"{}");
    let raw = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{artifact_type}","digest":"{empty}","size":2}},"layers":[],"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":7}},"annotations":{{"n":"{number}"}}}}"#
    )
    .into_bytes();
    let mut descriptor = Descriptor::new(OCI_MANIFEST, Digest::of(&raw), raw.len() as u64);
    descriptor.artifact_type = Some(artifact_type.to_owned());
    (descriptor, raw)
}

/// Pushes a referrer and sees to it that it is listed.
async fn push(
    repository: &Repository,
    subject: &Digest,
    descriptor: Descriptor,
    raw: &[u8],
) -> Result<(), RegistryError> {
    let referrer = Referrer { descriptor, raw: Bytes::copy_from_slice(raw) };
    if repository.push_referrer(&referrer).await? {
        return Ok(());
    }
    repository.list_referrers(subject, &[referrer]).await
}

#[tokio::test]
async fn referrers_are_found_with_and_without_the_api() {
    for referrers in [Referrers::Api, Referrers::Status(404)] {
        let registry = TestRegistry::with(Habits { referrers, referrers_page: 2, ..Habits::default() });
        let client = client(None);
        let repository = repository(&client, &registry, "team/name");
        let subject = Digest::of(b"subject");
        assert!(repository.referrers(&subject, None).await.unwrap().is_empty());

        let mut expected = Vec::new();
        for number in 0..5 {
            let (descriptor, raw) = referrer(&subject, SOCI_INDEX_V1, number);
            expected.push(descriptor.digest);
            let digest = descriptor.digest.to_string();
            push(&repository, &subject, descriptor.clone(), &raw).await.unwrap();
            assert_eq!(registry.manifest("team/name", &digest).unwrap().1, raw);
            // Once more changes nothing.
            push(&repository, &subject, descriptor, &raw).await.unwrap();
        }
        let (other, raw) = referrer(&subject, "application/other", 0);
        push(&repository, &subject, other.clone(), &raw).await.unwrap();

        let digests = |found: Vec<Descriptor>| {
            let mut digests: Vec<_> = found.into_iter().map(|descriptor| descriptor.digest).collect();
            digests.sort_unstable();
            digests
        };
        expected.sort_unstable();
        assert_eq!(digests(repository.referrers(&subject, Some(SOCI_INDEX_V1)).await.unwrap()), expected);
        expected.push(other.digest);
        expected.sort_unstable();
        assert_eq!(digests(repository.referrers(&subject, None).await.unwrap()), expected);

        let tag = registry.manifest("team/name", &format!("sha256-{}", subject.hex()));
        assert_eq!(tag.is_some(), !referrers.has_list(), "the tag is for registries without the API");
    }
}

#[tokio::test]
async fn concurrent_writers_of_the_referrers_tag_lose_nothing() {
    let registry = TestRegistry::with(Habits { referrers: Referrers::Status(404), ..Habits::default() });
    let client = client(None);
    let repository = repository(&client, &registry, "team/name");
    let subject = Digest::of(b"subject");
    let writers: Vec<_> = (0..3)
        .map(|number| {
            let (repository, (descriptor, raw)) =
                (repository.clone(), referrer(&subject, SOCI_INDEX_V1, number));
            tokio::spawn(async move { push(&repository, &subject, descriptor, &raw).await })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    assert_eq!(repository.referrers(&subject, None).await.unwrap().len(), 3);
}

#[tokio::test]
async fn hostile_lists_of_referrers_are_errors() {
    let subject = Digest::of(b"subject");
    for body in ["[]", "{\"schemaVersion\":2,\"manifests\":7}", "{\"schemaVersion\":2}", "{\"manifests\":[]"]
    {
        let registry = TestRegistry::with(Habits { referrers: Referrers::Status(404), ..Habits::default() });
        registry.put_manifest("a/b", Some(&format!("sha256-{}", subject.hex())), OCI_INDEX, body);
        let client = client(None);
        let error = repository(&client, &registry, "a/b").referrers(&subject, None).await.unwrap_err();
        assert!(matches!(error, RegistryError::Protocol { .. }), "{error:?}");
    }
    let registry = TestRegistry::start();
    registry.faults().add(When::path("/referrers/"), Fault::Status(500, None));
    let client = client(None);
    let error = repository(&client, &registry, "a/b").referrers(&subject, None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn blobs_are_pushed_from_memory_and_file_once() {
    let registry = with_auth(AuthMode::Bearer);
    let client = client(Some(known_user(&registry)));
    let repository = repository(&client, &registry, "team/name");
    let blob = Bytes::from((0..3_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    let digest = Digest::of(&blob);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &blob).unwrap();

    for content in [Content::Bytes(blob.clone()), Content::file(file.path()).unwrap()] {
        registry.remove_blob(&digest);
        assert!(repository.push_blob(&digest, content.clone()).await.unwrap());
        assert!(registry.blob(&digest).unwrap() == blob);
        registry.forget_requests();
        assert!(!repository.push_blob(&digest, content).await.unwrap(), "it is there already");
        assert_eq!(registry.requests().len(), 1);
    }
    assert_eq!(client.traffic().bytes_sent(), 6_000_000);

    assert!(repository.mount_blob(&digest, "team/other").await.unwrap());
    assert!(!repository.mount_blob(&Digest::of(b"unknown"), "team/other").await.unwrap());
    let empty = Digest::of(b"");
    assert!(repository.push_blob(&empty, Content::Empty).await.unwrap());
    assert!(registry.blob(&empty).is_some());
}

#[tokio::test]
async fn uploads_survive_faults() {
    let registry = TestRegistry::start();
    let client = client(None);
    let repository = repository(&client, &registry, "team/name");
    let blob = Bytes::from(vec![7; 1 << 20]);
    let digest = Digest::of(&blob);
    for fault in [Fault::Status(503, None), Fault::Truncate(0)] {
        for method in ["HEAD", "POST", "PUT"] {
            registry.remove_blob(&digest);
            registry.faults().add_times(When::path("/blobs/").method(method), fault.clone(), 2);
            repository.push_blob(&digest, Content::Bytes(blob.clone())).await.unwrap();
            assert!(registry.blob(&digest).unwrap() == blob, "{fault:?} {method}");
        }
    }
    registry.faults().clear();
    registry.remove_blob(&digest);
    let error =
        repository.push_blob(&digest, Content::Bytes(Bytes::from_static(b"other"))).await.unwrap_err();
    assert!(matches!(error, RegistryError::Status { status: 400, .. }), "{error:?}");
    assert!(registry.blob(&digest).is_none());
}

#[tokio::test]
async fn large_blobs_go_in_chunks_where_one_piece_is_refused() {
    let registry = TestRegistry::with(Habits { max_upload: 16 << 20, ..Habits::default() });
    let client = client(None);
    let repository = repository(&client, &registry, "team/name");
    let blob: Vec<_> = (0..40_u32 << 20).map(|n| (n / 4096 % 256) as u8).collect();
    let digest = Digest::of(&blob);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &blob).unwrap();
    registry.faults().add_times(When::always().method("PATCH"), Fault::Status(503, None), 2);
    assert!(repository.push_blob(&digest, Content::file(file.path()).unwrap()).await.unwrap());
    assert!(registry.blob(&digest).unwrap() == blob);
}

#[tokio::test]
async fn manifests_are_pushed_byte_by_byte() {
    let registry = TestRegistry::start();
    let client = client(None);
    let repository = repository(&client, &registry, "team/name");
    // Neither canonical nor pretty: it must stay so.
    let raw = br#"{ "schemaVersion":2,"z":"<&>",  "a":1}"#;
    let digest = Digest::of(raw);
    registry.faults().add_times(When::always().method("PUT"), Fault::Status(502, None), 1);
    for reference in ["v1", &digest.to_string()] {
        assert_eq!(repository.push_manifest(reference, OCI_MANIFEST, raw).await.unwrap(), digest);
        let (bytes, found, media_type) = repository.manifest(reference).await.unwrap();
        assert_eq!((&bytes[..], found, media_type.as_str()), (raw.as_slice(), digest, OCI_MANIFEST));
    }
    let other = Digest::of(b"other").to_string();
    assert!(repository.push_manifest(&other, OCI_MANIFEST, raw).await.is_err());
}
