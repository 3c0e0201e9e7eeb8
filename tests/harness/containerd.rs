//! A real containerd on its own root, state and socket, with our daemon as its proxy snapshotter `soci`.
//!
//! Owns the process, and whatever it mounted: both are gone after the drop. Asks CRI by hand-written messages, since only
//! CRI sets the labels by which a layer is told.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use rustix::mount::{UnmountFlags, unmount};
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

use crate::daemon::Daemon;

/// How long containerd may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    child: Child,
    directory: PathBuf,
}

impl Containerd {
    /// Starts on `directory`, an existing empty one, with `daemon` as snapshotter, and waits until it answers.
    pub fn start(directory: &Path, daemon: &Daemon) -> Self {
        let snapshotter = format!(
            r#"
[plugins."io.containerd.grpc.v1.cri"]
stream_server_port = "0"
enable_selinux = false
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "soci"
disable_snapshot_annotations = false
[proxy_plugins.soci]
type = "snapshot"
address = "{soci}"
[proxy_plugins.soci.exports]
root = "{soci_root}"
"#,
            soci = daemon.socket().display(),
            soci_root = daemon.root().display(),
        );
        Self::launch(directory, &[], &snapshotter)
    }

    /// Starts on `directory`, an existing empty one, without any snapshotter of ours.
    pub fn plain(directory: &Path) -> Self {
        Self::launch(directory, &["io.containerd.grpc.v1.cri"], "")
    }

    fn launch(directory: &Path, without: &[&str], more: &str) -> Self {
        let plugins = ["snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.aufs"];
        let plugins = plugins.iter().chain(&["snapshotter.v1.devmapper", "internal.v1.opt"]);
        let mut disabled: Vec<String> = plugins.map(|name| format!("io.containerd.{name}")).collect();
        disabled.extend(without.iter().map(|name| (*name).to_owned()));
        let path = |name: &str| directory.join(name).display().to_string();
        let config = format!(
            r#"
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = {disabled:?}
[grpc]
address = "{socket}"
{more}"#,
            root = path("containerd-root"),
            state = path("containerd-state"),
            socket = path("containerd.sock"),
        );
        fs::write(directory.join("containerd.toml"), config).expect("the directory is writable");
        let log = File::create(directory.join("containerd.log")).expect("the directory is writable");
        let child = Command::new("containerd")
            .arg("--config")
            .arg(directory.join("containerd.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd is installed");
        let mut containerd = Self { child, directory: directory.to_owned() };
        let start = Instant::now();
        while !containerd.ctr(&["version"]).status.success() {
            let ended = containerd.child.try_wait().expect("the child is ours");
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "no start, {ended:?}:\n{}",
                containerd.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        containerd
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("containerd.sock")
    }

    /// Where it has what runs.
    pub fn state(&self) -> PathBuf {
        self.directory.join("containerd-state")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("containerd.log")).unwrap_or_default()
    }

    /// Runs `ctr` in the namespace of CRI.
    pub fn ctr(&self, words: &[&str]) -> Output {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]).args(words);
        ctr.stdin(Stdio::null()).output().expect("ctr comes with containerd")
    }

    /// Runs `ctr`, which must succeed, and gives its standard output.
    ///
    /// Again when it has lost a stream of content by itself: the grpc-go that Debian's containerd is built with resets one
    /// for more data than it allowed (`FLOW_CONTROL_ERROR`) just after it has allowed more (containerd's issue 5734).
    pub fn ctr_ok(&self, words: &[&str]) -> String {
        const LOST_STREAM: &str = "rpc error: code = Internal desc = unexpected EOF";
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut output = self.ctr(words);
        for _ in 0..4 {
            if output.status.success() || !text(&output.stderr).contains(LOST_STREAM) {
                break;
            }
            output = self.ctr(words);
        }
        assert!(output.status.success(), "ctr {words:?}: {}\n{}", text(&output.stderr), self.log());
        text(&output.stdout)
    }

    /// Runs a program in a container, by `ctr tasks exec`. It is ended after two minutes, as something that hangs.
    pub fn exec(&self, container: &str, words: &[&str]) -> Output {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = format!("exec-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut ctr = Command::new("timeout");
        ctr.args(["--signal=KILL", "120", "ctr", "--address"]).arg(self.socket());
        ctr.args(["--namespace", "k8s.io", "tasks", "exec", "--exec-id", &id, container]).args(words);
        ctr.stdin(Stdio::null()).output().expect("ctr comes with containerd")
    }

    /// Pulls an image as a kubelet does; gives the image's id.
    pub async fn cri_pull(&self, image: &str) -> Result<String, tonic::Status> {
        pull_by_cri(self.socket(), image).await
    }
}

/// Pulls an image as a kubelet does, by the containerd at `socket`; gives the image's id.
pub async fn pull_by_cri(socket: PathBuf, image: &str) -> Result<String, tonic::Status> {
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        }))
        .await
        .expect("containerd answers");
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("containerd answers");
    let request = PullImageRequest { image: Some(ImageSpec { image: image.to_owned() }) };
    let path = PathAndQuery::from_static("/runtime.v1.ImageService/PullImage");
    let codec = tonic_prost::ProstCodec::<PullImageRequest, PullImageResponse>::default();
    let answer = client.unary(tonic::Request::new(request), path, codec).await?;
    Ok(answer.into_inner().image_ref)
}

/// The fields of CRI's messages that a plain pull uses.
#[derive(Clone, PartialEq, prost::Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PullImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Both fail when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points: Vec<_> =
            table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect();
        for point in
            points.iter().rev().filter(|point| point.starts_with(self.directory.join("containerd-state")))
        {
            if let Err(error) = unmount(point, UnmountFlags::DETACH) {
                eprintln!("{} stays mounted: {error}", point.display());
            }
        }
        if std::thread::panicking() {
            eprintln!("log of containerd:\n{}", self.log());
        }
    }
}
