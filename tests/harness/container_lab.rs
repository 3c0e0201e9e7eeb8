//! Recordings of containers that somebody else starts: a containerd with our daemon beside its own snapshotters, an image in
//! a test registry, pulled for one snapshotter, and a directory that host and containers share.
//!
//! [`ContainerLab`] owns all of it, and the containers: those that still run are killed with it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use soci_core::digest::Digest;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::containerd::Containerd;
use crate::daemon::{Daemon, program};
use crate::image::{LayerSource, Published, publish};
use crate::layout;
use crate::machine::processes_mentioning;
use crate::patience::eventually;
use crate::recording::Recording;
use crate::registry::TestRegistry;

/// An id that no other test has: runc knows the containers of all containerds.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("soci-{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// An image that is ready to be run.
#[derive(Debug)]
pub struct ContainerLab {
    // In the order in which they have to end.
    /// The container runtime.
    pub containerd: Containerd,
    _daemon: Daemon,
    /// The image.
    pub image: Published,
    snapshotter: &'static str,
    program: &'static str,
    /// What containers see as `/sync`.
    pub sync: PathBuf,
    /// Where the image came from.
    pub registry: TestRegistry,
    work: TempDir,
}

impl ContainerLab {
    /// Pulls an image of these directories, the lowest first, by `snapshotter`; `soci`: all of its layers are lazy. Its
    /// containers run `program`.
    ///
    /// # Panics
    /// When that fails.
    pub fn new(snapshotter: &'static str, layers: &[PathBuf], program: &'static str) -> Self {
        Self::with(snapshotter, layers, program, "")
    }

    /// The same, with a configuration of our snapshotter.
    ///
    /// # Panics
    /// When that fails.
    pub fn with(snapshotter: &'static str, layers: &[PathBuf], program: &'static str, config: &str) -> Self {
        for dir in ["proc", "sys", "dev", "run", "tmp", "sync", "etc"] {
            fs::create_dir_all(layers[0].join(dir)).expect("make a directory");
        }
        let sources = layers.iter().map(|dir| {
            let tar = layout::tar(dir);
            LayerSource { diff_id: Some(Digest::of(&tar)), ..LayerSource::of_tar(&tar) }
        });
        let registry = TestRegistry::start();
        let image = publish(&registry, "app", &sources.collect::<Vec<_>>(), 256 << 10);
        let work = tempfile::tempdir().expect("make a directory");
        let daemon = Daemon::start(work.path(), config);
        let containerd = Containerd::start(work.path(), &daemon);
        let name = &*image.reference;
        if snapshotter == "soci" {
            let runtime = Runtime::new().expect("start a runtime");
            runtime.block_on(containerd.cri_pull(name)).expect("pull the image");
            assert_eq!(daemon.metric("soci_layers_total{way=\"lazy\"}"), layers.len() as u64);
        } else {
            containerd.ctr_ok(&["images", "pull", "--plain-http", "--snapshotter", snapshotter, name]);
        }
        let sync = work.path().join("sync");
        fs::create_dir(&sync).expect("make a directory");
        Self { containerd, _daemon: daemon, image, snapshotter, program, sync, registry, work }
    }

    /// The words of `ctr run`.
    pub fn run_words(&self, flags: &[&str], id: &str, words: &[impl AsRef<str>]) -> Vec<String> {
        let mount = format!("type=bind,src={},dst=/sync,options=rbind:rw", self.sync.display());
        let socket = self.containerd.socket().display().to_string();
        let ctr =
            ["ctr", "--address", &socket, "--namespace", "k8s.io", "run", "--snapshotter", self.snapshotter];
        let rest = ["--mount", &mount].into_iter().chain(flags.iter().copied());
        let rest = rest.chain([self.image.reference.as_str(), id, self.program]);
        let rest = rest.chain(words.iter().map(AsRef::as_ref));
        ctr.into_iter().chain(rest).map(Into::into).collect()
    }

    /// Runs a container.
    ///
    /// # Panics
    /// When `ctr` fails.
    pub fn ctr_run(&self, flags: &[&str], id: &str, words: &[impl AsRef<str>]) {
        let words = self.run_words(flags, id, words);
        let output = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).output();
        let output = output.expect("ctr comes with containerd");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// `soci record` without a command, with results named `t` in `out`.
    pub fn command(&self, out: &Path, flags: &[&str]) -> Command {
        let mut command = Command::new(program("soci"));
        command.args(["record", "--name", "t", "--address"]).arg(self.containerd.socket());
        command.arg("--out").arg(out).args(flags).stdin(Stdio::null());
        command
    }

    /// Records what comes of a command.
    ///
    /// # Panics
    /// When the program cannot be started.
    pub fn record(&self, flags: &[&str], words: &[String]) -> Recording {
        Recording::of(|out| {
            let mut command = self.command(out, flags);
            command.arg("--").args(words);
            command
        })
    }

    /// The first process of a container.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self, id: &str) -> u32 {
        let tasks = self.containerd.ctr_ok(&["tasks", "ls"]);
        let line = tasks.lines().find(|line| line.starts_with(id)).expect("the container runs");
        line.split_whitespace().nth(1).and_then(|pid| pid.parse().ok()).expect("a line of a task")
    }

    /// Starts to attach to `what`, and waits until the recording has begun.
    ///
    /// # Panics
    /// When it ends before.
    pub fn attach(&self, what: &str, flags: &[&str]) -> (TempDir, Child) {
        let dir = tempfile::tempdir().expect("make a directory");
        let mut command = self.command(dir.path(), &[&["--attach", what], flags].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("soci runs");
        eventually("the recording begins", || {
            let ended = child.try_wait().expect("the child is ours");
            assert!(ended.is_none(), "it ended: {}", said(&mut child));
            dir.path().join("t.trace.partial").exists()
        });
        (dir, child)
    }

    /// Makes a file that containers see in `/sync`.
    ///
    /// # Panics
    /// When that fails.
    pub fn go(&self, name: &str) {
        fs::write(self.sync.join(name), "").expect("the directory is writable");
    }

    /// Ends and removes a container.
    ///
    /// # Panics
    /// When it does not end.
    pub fn remove(&self, id: &str) {
        // It may have ended, or be gone.
        self.containerd.ctr(&["tasks", "kill", "--signal", "KILL", id]);
        eventually("the container ends", || {
            self.containerd.ctr(&["tasks", "rm", id]);
            !self.containerd.ctr_ok(&["tasks", "ls", "-q"]).contains(id)
        });
        self.containerd.ctr(&["containers", "rm", id]);
    }
}

fn said(child: &mut Child) -> String {
    let mut text = String::new();
    if let Some(from) = &mut child.stderr {
        from.read_to_string(&mut text).expect("standard error is text");
    }
    text
}

impl Drop for ContainerLab {
    fn drop(&mut self) {
        // Also those of a test that failed: a shim outlives containerd.
        for id in String::from_utf8_lossy(&self.containerd.ctr(&["tasks", "ls", "-q"]).stdout).lines() {
            self.containerd.ctr(&["tasks", "kill", "--signal", "KILL", id]);
            eventually("a container ends", || self.containerd.ctr(&["tasks", "rm", id]).status.success());
            self.containerd.ctr(&["containers", "rm", id]);
        }
        let work = self.work.path().to_string_lossy().into_owned();
        let left: Vec<_> = processes_mentioning(&work)
            .into_iter()
            .filter(|(_, line)| line.contains("containerd-shim"))
            .collect();
        assert!(std::thread::panicking() || left.is_empty(), "{left:?}");
    }
}
