//! The real snapshotter daemon as a process of its own, on a private root directory and socket.
//!
//! Owns the process and everything it mounted: both are gone after the drop, however the test ended.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use soci_core::containerd::{SnapshotsClient, snapshots_client};

/// How long the daemon may take to start or to stop: minutes, in a guest without KVM on a busy machine.
const PATIENCE: Duration = Duration::from_mins(5);

/// The path of one of the product's programs: in the folder that `SOCI_BIN_DIR` names, else where cargo put it.
pub fn program(name: &str) -> PathBuf {
    let beside_tests = || {
        let test = std::env::current_exe().expect("a running program has a path");
        test.ancestors().nth(2).expect("cargo runs tests from DIR/deps").to_owned()
    };
    let directory = std::env::var_os("SOCI_BIN_DIR").map_or_else(beside_tests, PathBuf::from);
    let path = directory.join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --bins` first", path.display());
    path
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    directory: PathBuf,
    program: PathBuf,
}

impl Daemon {
    /// Starts on `directory` (root, socket, log and configuration go there) and waits until it is ready.
    pub fn start(directory: &Path, config: &str) -> Self {
        let program = program("soci-snapshotter-grpc");
        let child = spawn(&program, directory, config);
        let mut daemon = Self { child, directory: directory.to_owned(), program };
        daemon.wait_until_ready(0);
        daemon
    }

    /// Starts again after [`Daemon::kill`] or [`Daemon::stop`].
    pub fn restart(&mut self, config: &str) {
        let before = self.log().len();
        self.begin(config);
        self.wait_until_ready(before);
    }

    /// The same, and does not wait until it is ready.
    pub fn begin(&mut self, config: &str) {
        self.child = spawn(&self.program, &self.directory, config);
    }

    /// The program that runs.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// From now on another program is started.
    pub fn use_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    fn wait_until_ready(&mut self, log_before: usize) {
        let start = Instant::now();
        while !self.log()[log_before..].contains("successfully started") {
            let ended = self.child.try_wait().expect("the child is ours");
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "no start, {ended:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its root directory.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("run/soci.sock")
    }

    /// The file with its credentials, which nobody has written yet.
    pub fn credentials(&self) -> PathBuf {
        let directory = self.directory.join("docker");
        fs::create_dir_all(&directory).expect("the directory is writable");
        directory.join("config.json")
    }

    /// A client of its snapshots service.
    pub async fn client(&self) -> SnapshotsClient {
        snapshots_client(&self.socket()).await.expect("the daemon is ready")
    }

    /// What it has logged, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// What the status socket answers to a GET: the status code and the body.
    pub fn ask(&self, path: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.root().join("status.sock")).expect("status is served");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("the request is small");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the answer is text");
        let (head, body) = text.split_once("\r\n\r\n").expect("the answer is HTTP");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status code");
        (status, body.to_owned())
    }

    /// The document of `/status`.
    pub fn status(&self) -> serde_json::Value {
        let (code, body) = self.ask("/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("it is JSON")
    }

    /// One metric, with its labels as the text has them. Panics when there is no such metric.
    pub fn metric(&self, name: &str) -> u64 {
        let mut stream =
            UnixStream::connect(self.directory.join("metrics.sock")).expect("metrics are served");
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("the request is small");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("metrics are text");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no metric {name} in:\n{text}"))
    }

    /// Mountpoints of layers.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|point| point.starts_with(self.root().join("snapshotter"))).collect()
    }

    /// `soci-snapshotter-grpc unmount`: what it says, or why it does not do it.
    ///
    /// # Errors
    /// The words on standard error.
    pub fn unmount(&self, flags: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program("soci-snapshotter-grpc"));
        let output = command.arg("--root").arg(self.root()).arg("unmount").args(flags).output();
        let output = output.expect("the daemon is a program");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("the child is ours");
    }

    /// Sends a signal and waits for the end.
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).expect("the child is ours");
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the child is ours") {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the daemon does not stop:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn spawn(program: &Path, directory: &Path, config: &str) -> Child {
    let metrics = directory.join("metrics.sock");
    let config = format!("metrics_network = \"unix\"\nmetrics_address = \"{}\"\n{config}", metrics.display());
    fs::write(directory.join("config.toml"), config).expect("the directory is writable");
    let log = File::options().create(true).append(true).open(directory.join("log")).expect("a log file");
    Command::new(program)
        .arg("--root")
        .arg(directory.join("root"))
        .arg("--address")
        .arg(directory.join("run/soci.sock"))
        .arg("--config")
        .arg(directory.join("config.toml"))
        .args(["--log-level", "debug"])
        .env("DOCKER_CONFIG", directory.join("docker"))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the daemon is a program")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = self.unmount(&["--force"]) {
            eprintln!("mounts stay: {error}");
        }
        if std::thread::panicking() {
            eprintln!("log of the daemon:\n{}", self.log());
        }
    }
}
