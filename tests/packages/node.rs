//! A node: Debian's minimal root with containerd and systemd, booted in namespaces of its own. The kernel and the network are this
//! machine's.
//!
//! [`Node`] owns a copy of the root that `SOCI_NODE_ROOT` names, the processes and their cgroup; all are gone after the drop, and with
//! them everything that was mounted.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::patience::eventually;
use tempfile::TempDir;

/// The service of the snapshotter.
pub(crate) const SERVICE: &str = "soci-snapshotter.service";
/// Its socket, on the node.
pub(crate) const SOCKET: &str = "/run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock";
/// How long systemd may take to be up.
const PATIENCE: Duration = Duration::from_mins(2);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A booted node.
pub(crate) struct Node {
    unshare: Child,
    /// Its systemd, as this machine sees it.
    init: u32,
    cgroups: Vec<PathBuf>,
    _root: TempDir,
}

impl Node {
    /// Boots a fresh node.
    pub(crate) fn boot() -> Self {
        let root = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-a").arg(base().join(".")).arg(root.path()).status().unwrap();
        assert!(copied.success(), "the root can be copied");
        // It has its own part of the hierarchies that systemd wants.
        let own = |top: PathBuf| top.join(format!("soci-node-{}", std::process::id()));
        let cgroups: Vec<PathBuf> = hierarchies().into_iter().map(own).collect();
        for cgroup in &cgroups {
            fs::create_dir_all(cgroup).unwrap();
        }
        let script = "root=$0 boot=$1; shift; for cgroup; do echo $$ >\"$cgroup/cgroup.procs\"; done; \
            exec unshare --mount --pid --fork --kill-child --ipc --uts --cgroup bash -c \"$boot\" boot \"$root\"";
        let unshare = Command::new("bash")
            .args(["-c", script])
            .arg(root.path())
            .arg(include_str!("boot.sh"))
            .args(&cgroups)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut node = Self { unshare, init: 0, cgroups, _root: root };
        let start = Instant::now();
        loop {
            let ended = node.unshare.try_wait().unwrap();
            assert!(ended.is_none() && start.elapsed() < PATIENCE, "the node does not boot: {ended:?}");
            if let Some(init) = node.find_init() {
                node.init = init;
                let state = node.run(&["systemctl", "is-system-running"]);
                let state = String::from_utf8_lossy(&state.stdout).into_owned();
                if ["running", "degraded"].contains(&state.trim()) {
                    return node;
                }
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// The child of unshare, once it is systemd.
    fn find_init(&self) -> Option<u32> {
        let pid = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let init = children.split_whitespace().next()?.parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{init}/comm")).ok()?;
        (name.trim() == "systemd").then_some(init)
    }

    /// A program of the node.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let target = self.init.to_string();
        command.args([
            "--target", &target, "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--root", "--wd", "--",
        ]);
        command.args(words).env_clear().env("PATH", PATH).env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null());
        command
    }

    /// Runs a program of the node.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// Runs a shell script on the node, which must succeed; gives its standard output.
    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.run(&["bash", "-ec", script]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{script}\n{}{}\n{}",
            text(&output.stdout),
            text(&output.stderr),
            self.journal()
        );
        text(&output.stdout)
    }

    /// A file of the node, as this machine reaches it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// Puts a file onto the node.
    pub(crate) fn put(&self, from: &Path, inside: &str) {
        fs::copy(from, self.path(inside))
            .unwrap_or_else(|error| panic!("{} -> {inside}: {error}", from.display()));
    }

    /// The main process of the snapshotter, as the node counts. 0: none runs.
    pub(crate) fn main_pid(&self) -> u32 {
        let text = self.sh(&format!("systemctl show --property=MainPID --value {SERVICE}"));
        text.trim().parse().unwrap()
    }

    /// The holder of the mounts, as the node counts.
    pub(crate) fn holder(&self) -> Option<u32> {
        let text = self.sh("pgrep --full 'soci-snapshotter-grpc.* hold ' || true");
        text.split_whitespace().next().map(|pid| pid.parse().unwrap())
    }

    /// Waits until the snapshotter runs, by another process than `before`.
    pub(crate) fn wait_for_another(&self, before: u32) {
        eventually("the snapshotter runs", || {
            let active = self.run(&["systemctl", "--quiet", "is-active", SERVICE]).status.success();
            active && ![0, before].contains(&self.main_pid())
        });
    }

    /// What is mounted on the node.
    pub(crate) fn mounts(&self) -> String {
        fs::read_to_string(format!("/proc/{}/mountinfo", self.init)).unwrap()
    }

    /// Fails when anything of soci is on the node, but for what is below /root.
    pub(crate) fn assert_nothing_left(&self) {
        let files = self.sh("find / -xdev -path /proc -prune -o -path /root -prune -o -iname '*soci*' -print; find /run -iname '*soci*'");
        assert_eq!(files, "", "files are left");
        assert_eq!(
            self.sh("pgrep --full --list-full '[s]oci-snapshotter' || true"),
            "",
            "processes are left"
        );
        let mounts = self.mounts();
        assert!(!mounts.contains("soci-snapshotter"), "mounts are left:\n{mounts}");
        assert!(!self.run(&["systemctl", "cat", SERVICE]).status.success(), "systemd still knows the unit");
    }

    /// The last that the services have said.
    pub(crate) fn journal(&self) -> String {
        let output =
            self.run(&["journalctl", "--no-pager", "--lines=40", "--output=cat", "--unit=soci-snapshotter*"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() && self.init != 0 {
            eprintln!("journal of the node:\n{}", self.journal());
        }
        // unshare takes its child, the node's first process, along; the kernel ends all others with that.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let gone = Instant::now() + Duration::from_secs(20);
        for cgroup in &self.cgroups {
            while remove_cgroups(cgroup).is_err() && Instant::now() < gone {
                sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Cgroups can only be removed one by one, the lowest first, and when no process is in them.
fn remove_cgroups(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// The root that nodes are copies of.
fn base() -> PathBuf {
    let base = std::env::var_os("SOCI_NODE_ROOT");
    let base = PathBuf::from(base.expect("SOCI_NODE_ROOT is set: run `cargo xtask test --tier packages`"));
    assert_eq!(fs::metadata(&base).unwrap().uid(), 0, "{} was made by root", base.display());
    base
}

/// Where the hierarchies are mounted by which systemd knows its processes: version 2, and that of its own name.
fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let wanted = mounts
        .filter(|mount| mount[2] == "cgroup2" || mount[2] == "cgroup" && mount[3].contains("name=systemd"));
    let found: Vec<PathBuf> = wanted.map(|mount| PathBuf::from(mount[1])).collect();
    assert!(!found.is_empty(), "cgroups are mounted");
    found
}
