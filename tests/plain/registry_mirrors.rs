//! Which servers stand for a registry: mirrors, `hosts.toml`, certificates.

use std::path::Path;
use std::time::Duration;

use harness::registry::{Habits, Referrers, TestRegistry};
use harness::tls::TlsFront;
use soci_core::digest::Digest;
use soci_core::media_type::{OCI_MANIFEST, SOCI_INDEX_V1};
use soci_core::registry::{
    Content, HostPolicy, RangeFetcher, Registry, RegistryError, RegistryOptions, Repository, RetryPolicy,
};
use soci_core::units::ByteRange;
use tempfile::TempDir;

const BLOB: &[u8] = b"the same bytes, wherever they are";

/// A registry, what its hosts.toml says, and a client that reads it.
struct Scene {
    origin: TestRegistry,
    dir: TempDir,
    repository: Repository,
}

impl Scene {
    fn new(origin: TestRegistry, hosts: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join(origin.host());
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("hosts.toml"), hosts).unwrap();
        let repository = client(dir.path()).repository(&origin.image("team/name").parse().unwrap());
        Self { origin, dir, repository }
    }

    /// The blob is in both, and the tag.
    fn mirrored(mirror: &TestRegistry, more: &str) -> (Self, Digest) {
        let origin = TestRegistry::start();
        for registry in [&origin, mirror] {
            registry.put_blob(BLOB);
            registry.put_manifest("team/name", Some("latest"), OCI_MANIFEST, "{}");
        }
        let hosts = format!("[host.\"http://{}\"]\n{more}", mirror.host());
        (Self::new(origin, &hosts), Digest::of(BLOB))
    }
}

fn client(dir: &Path) -> Registry {
    Registry::new(RegistryOptions {
        retry: RetryPolicy { max_retries: 3, min_wait: Duration::from_millis(1), ..RetryPolicy::default() },
        hosts: HostPolicy { dirs: vec![dir.to_owned()], ..HostPolicy::default() },
        ..RegistryOptions::default()
    })
}

async fn read(fetcher: &RangeFetcher) -> Result<Vec<u8>, RegistryError> {
    let mut body = fetcher.fetch(ByteRange::new(4, 8)).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = body.chunk().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn paths(registry: &TestRegistry) -> Vec<String> {
    registry.requests().into_iter().map(|request| request.path).collect()
}

#[tokio::test]
async fn a_mirror_is_asked_for_everything_that_is_read_and_nothing_that_is_written() {
    let mirror = TestRegistry::start();
    let (scene, digest) = Scene::mirrored(&mirror, "");
    let repository = &scene.repository;
    repository.manifest("latest").await.unwrap();
    assert_eq!(repository.blob(&digest, 100).await.unwrap(), BLOB);
    assert_eq!(read(&repository.range_fetcher(digest, BLOB.len() as u64)).await.unwrap(), BLOB[4..8]);
    assert!(paths(&scene.origin).is_empty(), "{:?}", paths(&scene.origin));
    let ns = format!("ns={}", scene.origin.host().replace(':', "%3A"));
    assert!(paths(&mirror).iter().all(|path| path.ends_with(&ns)), "{:?}", paths(&mirror));

    mirror.forget_requests();
    let new = b"new".as_slice();
    repository.push_blob(&Digest::of(new), Content::Bytes(new.into())).await.unwrap();
    repository.push_manifest("new", OCI_MANIFEST, b"{ }").await.unwrap();
    assert_eq!(paths(&mirror), [""; 0]);
    assert_eq!(scene.origin.blob(&Digest::of(new)).unwrap(), new);
}

#[tokio::test]
async fn a_mirror_that_cannot_be_reached_costs_one_attempt() {
    let mut mirror = TestRegistry::start();
    let (scene, digest) = Scene::mirrored(&mirror, "");
    mirror.stop();
    for _ in 0..3 {
        scene.repository.manifest("latest").await.unwrap();
        assert_eq!(
            read(&scene.repository.range_fetcher(digest, BLOB.len() as u64)).await.unwrap(),
            BLOB[4..8]
        );
    }
    assert_eq!(scene.origin.requests().len(), 6);
}

#[tokio::test]
async fn what_a_mirror_lacks_comes_from_the_registry_and_is_not_asked_for_again() {
    let mirror = TestRegistry::start();
    let (scene, digest) = Scene::mirrored(&mirror, "");
    mirror.remove_blob(&digest);
    let fetcher = scene.repository.range_fetcher(digest, BLOB.len() as u64);
    for _ in 0..3 {
        assert_eq!(read(&fetcher).await.unwrap(), BLOB[4..8]);
    }
    assert_eq!((mirror.requests().len(), scene.origin.requests().len()), (1, 3));
    // It is still good for other things.
    scene.repository.manifest("latest").await.unwrap();
    assert_eq!(mirror.requests().len(), 2);
}

#[tokio::test]
async fn a_mirror_with_wrong_bytes_is_not_asked_again() {
    let mirror = TestRegistry::start();
    let (scene, digest) = Scene::mirrored(&mirror, "");
    let fetcher = scene.repository.range_fetcher(digest, BLOB.len() as u64);
    let whole = ByteRange::new(0, BLOB.len() as u64);
    let of_mirror = fetcher.fetch(whole).await.unwrap().giver();
    assert!(of_mirror.distrust());
    let of_registry = fetcher.fetch(whole).await.unwrap().giver();
    assert!(!of_registry.distrust(), "the registry itself is the last to be asked");
    assert!(of_mirror.distrust(), "who gave the bytes is to blame, not who answered last");
    assert_eq!((mirror.requests().len(), scene.origin.requests().len()), (1, 1));
}

#[tokio::test]
async fn capabilities_are_obeyed() {
    let mirror = TestRegistry::start();
    let (scene, digest) = Scene::mirrored(&mirror, "capabilities = [\"pull\"]");
    scene.repository.manifest("latest").await.unwrap();
    assert_eq!(scene.repository.blob(&digest, 100).await.unwrap(), BLOB);
    assert_eq!((mirror.requests().len(), scene.origin.requests().len()), (1, 1));

    let origin = TestRegistry::start();
    let hosts = format!("server = \"http://{}\"\ncapabilities = [\"pull\", \"resolve\"]", origin.host());
    let scene = Scene::new(origin, &hosts);
    let error = scene.repository.push_manifest("new", OCI_MANIFEST, b"{}").await.unwrap_err();
    assert!(matches!(error, RegistryError::NotCapable { .. }), "{error}");
    let registry = scene.repository.host();
    assert_eq!(error.to_string(), format!("the hosts.toml of registry {registry} leaves no server for push"));
    assert!(scene.origin.requests().is_empty());
}

#[tokio::test]
async fn a_mirror_without_referrers_is_not_believed() {
    for referrers in [Referrers::Api, Referrers::Status(404)] {
        let mirror = TestRegistry::with(Habits { referrers, ..Habits::default() });
        let (scene, _) = Scene::mirrored(&mirror, "");
        let subject = Digest::of(b"{}");
        let raw = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"{SOCI_INDEX_V1}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{subject}","size":2}},"layers":[],"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":2}}}}"#
        );
        scene
            .repository
            .push_manifest(&Digest::of(raw.as_bytes()).to_string(), OCI_MANIFEST, raw.as_bytes())
            .await
            .unwrap();
        let found = scene.repository.referrers(&subject, Some(SOCI_INDEX_V1)).await.unwrap();
        assert_eq!(found.len(), 1, "referrers API of the mirror: {referrers:?}");
    }
}

#[tokio::test]
async fn paths_and_headers_of_a_mirror() {
    let mirror = TestRegistry::start();
    let origin = TestRegistry::start();
    let digest = origin.put_blob(BLOB);
    let at = mirror.host();
    let hosts = format!(
        "[host.\"http://{at}/proxy\"]\n[host.\"http://{at}/proxy\".header]\nx-custom = \"one\"\n\
         [host.\"http://{at}/bare\"]\noverride_path = true\n[host.\"http://{at}/done/v2\"]\n"
    );
    let scene = Scene::new(origin, &hosts);
    assert_eq!(scene.repository.blob(&digest, 100).await.unwrap(), BLOB);
    let begins: Vec<String> = paths(&mirror)
        .iter()
        .map(|path| path.split("/team/").next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(begins, ["/proxy/v2", "/bare", "/done/v2"], "in the order of the file");
    let custom: Vec<_> = mirror.requests().into_iter().map(|request| request.custom).collect();
    assert_eq!(custom, [Some("one".to_owned()), None, None]);
}

#[tokio::test]
async fn a_file_that_cannot_be_meant_is_an_error_that_names_it_and_nobody_is_asked() {
    for (hosts, reason) in [
        ("server = ", "cannot parse"),
        ("[host.\"ftp://mirror.test\"]", "ftp is not a scheme"),
        ("[host.\"https://me:secret@mirror.test\"]", "user and password"),
        ("[host.\"https://mirror.test\"]\ncapabilities = [\"fly\"]", "unknown capability \"fly\""),
        ("ca = \"absent.pem\"", "cannot read"),
        ("[host.\"https://mirror.test\"]\ndial_timeout = \"soon\"", "dial_timeout"),
    ] {
        let scene = Scene::new(TestRegistry::start(), hosts);
        let error = scene.repository.manifest("latest").await.unwrap_err();
        let RegistryError::Hosts { source, .. } = &error else { panic!("{hosts}: {error}") };
        assert!(error.to_string().contains(scene.repository.host()), "{error}");
        let text = source.to_string();
        assert!(text.contains(reason), "{hosts}: {text}");
        assert!(text.contains(scene.dir.path().to_str().unwrap()), "{hosts}: {text}");
        assert!(!text.contains("secret"), "{hosts}: {text}");
        assert!(scene.origin.requests().is_empty());
    }
}

#[tokio::test]
async fn certificates_of_hosts_toml_and_of_dockers_directory() {
    let origin = TestRegistry::start();
    let digest = origin.put_blob(BLOB);
    for ask in [false, true] {
        let front = TlsFront::new(origin.host().parse().unwrap(), ask);
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join(format!("{}_", front.host().replace(':', "_")));
        std::fs::create_dir(&own).unwrap();
        front.write(&own);
        let name = format!("{}/team/name", front.host()).parse().unwrap();
        let server = format!("server = \"https://{}\"\n", front.host());
        let attempt = async |hosts: &str| {
            std::fs::write(own.join("hosts.toml"), hosts).unwrap();
            client(dir.path()).repository(&name).blob(&digest, 100).await
        };
        let trusted = format!("{server}ca = \"ca.pem\"\n");
        let known = format!("{trusted}client = [[\"client.cert\", \"client.key\"]]\n");
        assert!(attempt(&server).await.is_err(), "nobody vouches for the server");
        assert_eq!(attempt(&trusted).await.is_ok(), !ask, "who we are matters only when asked");
        assert_eq!(attempt(&known).await.unwrap(), BLOB);
        assert_eq!(attempt(&format!("{server}skip_verify = true")).await.is_ok(), !ask);

        // Docker's form has no place to say HTTPS on loopback: as a mirror of its own name it does.
        std::fs::remove_file(own.join("hosts.toml")).unwrap();
        std::fs::rename(own.join("ca.pem"), own.join("ca.crt")).unwrap();
        let mirror = soci_core::registry::Server::parse(&format!("https://{}", front.host())).unwrap();
        assert!(!mirror.plain);
        let policy = HostPolicy { dirs: vec![dir.path().to_owned()], ..HostPolicy::default() };
        let registry = Registry::new(RegistryOptions { hosts: policy, ..RegistryOptions::default() });
        let error = registry.repository(&name).blob(&digest, 100).await.unwrap_err();
        assert!(!matches!(error, RegistryError::Hosts { .. }), "the certificates are good: {error}");
    }
}
