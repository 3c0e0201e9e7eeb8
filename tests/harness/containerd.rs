//! A real containerd on its own root, state and socket, with our daemon as its proxy snapshotter `soci`.
//!
//! Owns the process, and whatever it mounted: both are gone after the drop.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

use crate::containerd_release::Release;
use crate::containerd_setup::{self, Setup};
use crate::daemon::Daemon;
use crate::pods::Cri;

/// How long containerd may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    child: Child,
    directory: PathBuf,
    release: Release,
}

impl Containerd {
    /// Starts the installed one on `directory`, an existing empty one, with `daemon` as snapshotter, and waits until it answers.
    pub fn start(directory: &Path, daemon: &Daemon) -> Self {
        Self::of(&Release::installed(), directory, daemon, &Setup::default())
    }

    /// Starts one on `directory`, an existing empty one, without any snapshotter of ours.
    pub fn plain(directory: &Path) -> Self {
        Self::launch(Release::installed(), directory, None, &Setup::default())
    }

    /// The same as [`Containerd::start`] with another containerd.
    pub fn of(release: &Release, directory: &Path, daemon: &Daemon, setup: &Setup<'_>) -> Self {
        Self::launch(release.clone(), directory, Some(daemon), setup)
    }

    fn launch(release: Release, directory: &Path, daemon: Option<&Daemon>, setup: &Setup<'_>) -> Self {
        let config = containerd_setup::file(directory, release.version().0 >= 2, daemon, setup);
        fs::write(directory.join("containerd.toml"), config).expect("the directory is writable");
        let log = File::create(directory.join("containerd.log")).expect("the directory is writable");
        let child = Command::new(release.program("containerd"))
            .env("PATH", release.path())
            .arg("--config")
            .arg(directory.join("containerd.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd is installed");
        let mut containerd = Self { child, directory: directory.to_owned(), release };
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
        self.ctr_in("k8s.io", words)
    }

    /// The same in another namespace.
    pub fn ctr_in(&self, namespace: &str, words: &[&str]) -> Output {
        let mut ctr = Command::new(self.release.program("ctr"));
        ctr.arg("--address").arg(self.socket()).args(["--namespace", namespace]).args(words);
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
        ctr.args(["--signal=KILL", "120"])
            .arg(self.release.program("ctr"))
            .arg("--address")
            .arg(self.socket());
        ctr.args(["--namespace", "k8s.io", "tasks", "exec", "--exec-id", &id, container]).args(words);
        ctr.stdin(Stdio::null()).output().expect("ctr comes with containerd")
    }

    /// CRI, as a kubelet speaks it.
    pub async fn cri(&self) -> Cri {
        let logs = self.directory.join("logs");
        fs::create_dir_all(&logs).expect("the directory is writable");
        Cri::connect(&self.socket(), &logs).await
    }

    /// Pulls an image as a kubelet does; gives the image's id.
    pub async fn cri_pull(&self, image: &str) -> Result<String, tonic::Status> {
        self.cri().await.pull(image).await
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Shims outlive containerd, and what they run.
            for task in String::from_utf8_lossy(&self.ctr(&["tasks", "ls", "-q"]).stdout).lines() {
                self.ctr(&["tasks", "rm", "--force", task]);
            }
        }
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
