//! The daemon in the place of upstream's: configuration files of managed nodes, in their places, start it without a warning.
//! Needs root.
//!
//! Each node is a mount namespace with a `/run`, a `/var/lib` and an `/etc` of its own.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harness::daemon::program;
use harness::kubelet::Kubelet;
use rustix::process::{Pid, Signal, kill_process};
use soci_core::containerd::snapshots::ListSnapshotsRequest;
use soci_core::containerd::snapshots_client;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Code;

/// How long the daemon may take to start or to stop.
const PATIENCE: Duration = Duration::from_mins(5);

/// Makes the namespace's directories and becomes the daemon, which gets our standard input as systemd would pass a socket.
const BEGIN: &str = r#"
work=$1 directory=$2 config=$3 program=$4
shift 4
mount -t tmpfs tmpfs "$work/etc"
mkdir "$work/etc/upper" "$work/etc/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$work/etc/upper,workdir=$work/etc/work" overlay /etc
mkdir -p "/etc/$directory"
cp "$config" "/etc/$directory/config.toml"
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
exec 3<&0 </dev/null
LISTEN_FDS=1 LISTEN_PID=$$ exec "$program" "$@"
"#;

struct Node {
    daemon: Child,
    work: TempDir,
}

impl Node {
    /// Starts with a file of `tests/golden/config` in `/etc/DIRECTORY`; `passed`: on a socket that is passed to it.
    fn start(file: &str, directory: &str, flags: &[&str], passed: bool) -> Self {
        let work = tempfile::tempdir().unwrap();
        fs::create_dir(work.path().join("etc")).unwrap();
        let stdin = if passed {
            Stdio::from(OwnedFd::from(UnixListener::bind(work.path().join("passed.sock")).unwrap()))
        } else {
            Stdio::null()
        };
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/config").join(file);
        let daemon = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-ec", BEGIN, "sh"])
            .arg(work.path())
            .arg(directory)
            .arg(config)
            .arg(program("soci-snapshotter-grpc"))
            .args(flags)
            .env("SOCI_SNAPSHOTTER_KEEP_MOUNTS", "false")
            .stdin(stdin)
            .stderr(File::create(work.path().join("log")).unwrap())
            .spawn()
            .expect("util-linux has unshare");
        let mut node = Self { daemon, work };
        let start = Instant::now();
        while !node.log().contains("successfully started") {
            let ended = node.daemon.try_wait().unwrap();
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "no start, {ended:?}:\n{}", node.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        node
    }

    fn log(&self) -> String {
        fs::read_to_string(self.work.path().join("log")).unwrap_or_default()
    }

    /// A path of the node, as this process reaches it.
    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.daemon.id()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = kill_process(Pid::from_child(&self.daemon), Signal::TERM);
        let _ = self.daemon.wait();
        if std::thread::panicking() {
            eprintln!("log of the daemon:\n{}", self.log());
        }
    }
}

#[test]
fn files_of_managed_nodes_start_the_daemon_in_their_places_without_a_warning() {
    let runtime = Runtime::new().unwrap();
    let (long, short) = ("soci-snapshotter-grpc", "soci-snapshotter");
    let short_socket = "/run/soci-snapshotter/soci-snapshotter.sock";
    for (file, name, flags, passed, keychain) in [
        ("upstream-default.toml", long, &[][..], false, false),
        ("al2023.toml", long, &["--address", "fd://"][..], true, true),
        (
            "bottlerocket.toml",
            short,
            &["--address", short_socket, "--root", "/var/lib/soci-snapshotter"][..],
            false,
            true,
        ),
    ] {
        let node = Node::start(file, name, flags, passed);
        let socket = if passed {
            node.work.path().join("passed.sock")
        } else {
            node.path(&format!("/run/{name}/{name}.sock"))
        };
        assert!(node.path(&format!("/var/lib/{name}/snapshotter")).is_dir(), "{file}");
        runtime.block_on(async {
            let mut snapshots = snapshots_client(&socket).await.unwrap();
            let listed = snapshots.list(ListSnapshotsRequest::default()).await.unwrap();
            assert!(listed.into_inner().message().await.unwrap().is_none(), "{file}: nothing is there yet");
            let refused = Kubelet::at(&socket).file_systems().await.unwrap_err();
            if keychain {
                assert_eq!(refused.code(), Code::Unavailable, "{refused}");
                assert!(refused.message().contains("/run/containerd/containerd.sock"), "{refused}");
            } else {
                assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
            }
        });
        let log = node.log();
        let said: Vec<_> = log.lines().filter(|line| !line.contains("\"level\":\"INFO\"")).collect();
        assert!(said.is_empty(), "{file}: {said:#?}");
        assert_eq!(log.matches("config check lists them").count(), 1, "{file}: {log}");
    }
}
