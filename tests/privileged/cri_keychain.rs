//! A kubelet that pulls through the daemon's socket from a private registry of a real containerd: its credentials, and those
//! of its credential providers, serve lazy reads, also after tokens have expired and after a restart of the daemon. Needs
//! root and containerd.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use harness::containerd::Containerd;
use harness::daemon::Daemon;
use harness::disk_image::half_random;
use harness::image::{LayerSource, Published, TarWriter, publish};
use harness::kubelet::Kubelet;
use harness::registry::{AuthMode, Habits, PASSWORD, Server, TestRegistry, USER};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);
const LOGIN: Option<(&str, &str)> = Some((USER, PASSWORD));
const FILES: [&str; 5] = ["a", "b", "c", "d", "e"];
const SIZE: usize = 600_000;

struct Lab {
    // In the order in which they have to end.
    containerd: Containerd,
    daemon: Daemon,
    registry: TestRegistry,
    image: Published,
    config: String,
    runtime: Runtime,
    work: TempDir,
}

impl Lab {
    /// A private registry with an image of a few files, of which nothing is fetched ahead.
    fn new() -> Self {
        Self::with(|socket, work| {
            format!(
                "[background_fetch]\ndisable = true\n[cri_keychain]\nenable_keychain = true\nimage_service_path = \"{}\"\n\
                 [credential_providers]\nconfig_path = \"{}\"\nbin_dir = \"{}\"\n",
                socket.display(),
                work.join("providers.json").display(),
                work.display(),
            )
        })
    }

    /// The same on a node with the configuration of `config`, which is told containerd's socket and the test's directory.
    fn with(config: impl Fn(&Path, &Path) -> String) -> Self {
        let registry = TestRegistry::with(Habits { auth: AuthMode::Bearer, ..Habits::default() });
        let mut tar = TarWriter::default();
        for (seed, name) in (1..).zip(FILES) {
            tar.file(name, &half_random(SIZE, seed));
        }
        let image = publish(&registry, "team/app", &[LayerSource::of_tar(&tar.finish())], 64 << 10);
        let work = tempfile::tempdir().unwrap();
        let config = config(&work.path().join("containerd.sock"), work.path());
        fs::write(work.path().join("providers.json"), NO_PROVIDERS).unwrap();
        let daemon = Daemon::start(work.path(), &config);
        let containerd = Containerd::start(work.path(), &daemon);
        Self { containerd, daemon, registry, image, config, runtime: Runtime::new().unwrap(), work }
    }

    /// A kubelet whose image endpoint is the daemon's socket.
    fn kubelet(&self) -> Kubelet {
        let _inside = self.runtime.enter();
        Kubelet::at(&self.daemon.socket())
    }

    fn pull(&self) -> String {
        let pulled = self.runtime.block_on(self.kubelet().pull(&self.image.reference, LOGIN));
        pulled.unwrap_or_else(|status| panic!("{status}\n{}", self.containerd.log()))
    }

    fn layer(&self) -> PathBuf {
        self.daemon.mounts().pop().expect("the layer is mounted")
    }

    /// Reads a file that nobody has read.
    fn read(&self, number: usize) {
        check(&self.layer(), number);
    }

    fn begin_to_read(&self, number: usize) -> JoinHandle<()> {
        let layer = self.layer();
        std::thread::spawn(move || check(&layer, number))
    }

    fn restart(&mut self) {
        assert_eq!(self.daemon.stop(Signal::TERM).code(), Some(0));
        self.registry.revoke_tokens();
        self.registry.forget_requests();
        self.daemon.restart(&self.config);
    }

    /// Waits until the registry has refused a request for the layer's bytes.
    fn wait_for_refusal(&self) {
        let refused = || {
            let requests = self.registry.requests();
            requests.iter().any(|request| request.range.is_some() && request.status == 401)
        };
        wait("the registry refuses", refused);
    }

    /// How often the token server was asked.
    fn exchanges(&self) -> usize {
        self.registry.count(Server::Tokens)
    }

    /// A credential provider for the registry, which says that its answers may be kept for an hour.
    fn install_provider(&self) {
        let (work, host) = (self.work.path().display(), self.registry.host());
        let version = "credentialprovider.kubelet.k8s.io/v1";
        let config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
            "providers": [{
                "name": "provider", "matchImages": ["127.0.0.*:5", host], "defaultCacheDuration": "1m",
                "apiVersion": version, "args": ["get-credentials"], "env": [{ "name": "USER_NAME", "value": USER }],
            }],
        });
        fs::write(self.work.path().join("providers.json"), config.to_string()).unwrap();
        let answer = json!({
            "apiVersion": version, "kind": "CredentialProviderResponse", "cacheKeyType": "Registry",
            "cacheDuration": "1h0m0s", "auth": { host: { "username": "$USER_NAME", "password": PASSWORD } },
        });
        let script =
            format!("#!/bin/sh\ncat >> {work}/asked\necho \"$*\" > {work}/args\ncat <<END\n{answer}\nEND\n");
        let program = self.work.path().join("provider");
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What the provider was asked.
    fn asked(&self) -> Vec<Value> {
        let asked = fs::read_to_string(self.work.path().join("asked")).unwrap_or_default();
        asked.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Nothing that the daemon has written has a secret in it.
    fn assert_no_secret(&self) {
        let (log, mut directories) = (self.daemon.log(), vec![self.daemon.root()]);
        let secrets = [PASSWORD, "token-"];
        assert!(secrets.iter().all(|secret| !log.contains(secret)), "{log}");
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
                if kind.is_dir() && path != self.layer() {
                    directories.push(path);
                } else if kind.is_file() {
                    let bytes = fs::read(&path).unwrap();
                    let has =
                        |secret: &&str| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
                    assert!(!secrets.iter().any(has), "{}", path.display());
                }
            }
        }
    }
}

const NO_PROVIDERS: &str =
    r#"{"apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig", "providers": []}"#;

fn check(layer: &Path, number: usize) {
    let bytes = fs::read(layer.join(FILES[number])).expect("no read fails");
    assert!(bytes == half_random(SIZE, number as u64 + 1), "file {number} has other bytes");
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_kubelets_calls_pass_and_its_credentials_serve_lazy_reads() {
    let mut lab = Lab::new();
    let (kubelet, runtime) = (lab.kubelet(), &lab.runtime);
    let direct = {
        let _inside = runtime.enter();
        Kubelet::at(&lab.containerd.socket())
    };
    let name = lab.image.reference.clone();
    runtime.block_on(async {
        assert_eq!(kubelet.list().await.unwrap(), []);
        assert_eq!(kubelet.status(&name).await.unwrap(), None);
        let places = kubelet.file_systems().await.unwrap();
        assert_eq!(places, direct.file_systems().await.unwrap());
        assert_eq!(places.len(), 1, "{places:?}");
        // What containerd says passes as it is.
        let refused = kubelet.pull(&name, None).await.unwrap_err();
        let as_it_was = direct.pull(&name, None).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (as_it_was.code(), as_it_was.message()));
        assert!(refused.message().contains("401 Unauthorized"), "{refused}");
    });
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"lazy\"}"), 0);

    let id = lab.pull();
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"lazy\"}"), 1);
    runtime.block_on(async {
        let listed = kubelet.list().await.unwrap();
        assert_eq!(listed, direct.list().await.unwrap());
        assert_eq!(listed.len(), 1);
        assert_eq!((&listed[0].id, listed[0].repo_tags.as_slice()), (&id, &[name.clone()][..]));
        assert_eq!(kubelet.status(&name).await.unwrap().as_ref(), Some(&listed[0]));
    });
    let whole = |request: &harness::registry::Request| {
        request.range.is_none() && request.path.ends_with(&lab.image.layers[0].to_string())
    };
    assert!(!lab.registry.requests().iter().any(whole), "the layer was downloaded as a whole");
    lab.read(0);

    // The token is not in force any more: it is renewed with the credential of the pull.
    lab.registry.revoke_tokens();
    let before = lab.exchanges();
    lab.read(1);
    assert!(lab.exchanges() > before, "a token was renewed");

    // Another process has no credential: a reader waits until a kubelet brings it with its next pull.
    lab.restart();
    let reader = lab.begin_to_read(2);
    lab.wait_for_refusal();
    assert!(!reader.is_finished());
    wait("containerd finds the daemon again", || {
        lab.containerd.ctr(&["snapshots", "--snapshotter", "soci", "ls"]).status.success()
    });
    assert_eq!(lab.pull(), id);
    reader.join().unwrap();
    lab.assert_no_secret();

    lab.runtime.block_on(async {
        let kubelet = Kubelet::at(&lab.daemon.socket());
        kubelet.remove(&id).await.unwrap();
        assert_eq!(kubelet.list().await.unwrap(), []);
    });
    wait("the layer goes with its image", || lab.daemon.mounts().is_empty());
}

#[test]
fn a_credential_provider_is_asked_again_after_a_restart() {
    let mut lab = Lab::new();
    lab.pull();
    lab.read(0);
    assert!(lab.asked().is_empty(), "the kubelet's credential comes first");
    lab.restart();
    let reader = lab.begin_to_read(1);
    lab.wait_for_refusal();
    lab.install_provider();
    reader.join().unwrap();
    let question = json!({
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderRequest",
        "image": lab.registry.image("team/app"),
    });
    assert_eq!(lab.asked(), std::slice::from_ref(&question));
    assert_eq!(fs::read_to_string(lab.work.path().join("args")).unwrap(), "get-credentials\n");

    // What it said is kept, as it has allowed; not over a restart.
    lab.read(2);
    assert_eq!(lab.asked().len(), 1);
    lab.restart();
    lab.read(3);
    assert_eq!(lab.asked(), [question.clone(), question]);
    lab.assert_no_secret();
}

/// Nothing is lazy with this file; the kubelet's credential serves the daemon's own pull.
#[test]
fn the_file_of_a_managed_node_pulls_whole_layers_of_a_private_registry() {
    let lab = Lab::with(|socket, _| {
        let file = include_str!("../golden/config/al2023.toml");
        file.replace("/run/containerd/containerd.sock", &socket.display().to_string())
    });
    lab.pull();
    assert_eq!(lab.daemon.metric("soci_layers_total{way=\"whole\"}"), 1);
    let listed = lab.runtime.block_on(async { Kubelet::at(&lab.daemon.socket()).list().await.unwrap() });
    assert_eq!(listed.len(), 1);
    let snapshots = lab.daemon.root().join("snapshotter/snapshots");
    let unpacked = fs::read_dir(snapshots).unwrap().map(|entry| entry.unwrap().path().join("fs"));
    let layers: Vec<_> = unpacked.filter(|layer| layer.join(FILES[0]).exists()).collect();
    assert_eq!(layers.len(), 1, "{layers:?}");
    (0..FILES.len()).for_each(|number| check(&layers[0], number));
}
