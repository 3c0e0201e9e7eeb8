//! The private snapshotter of one `soci run`: its configuration, its process, its counters.
//!
//! Owns the process; stopping or dropping it ends the daemon, which takes its mounts away first.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process};

use crate::commands::stop::Stop;
use crate::status_socket;

/// How long the daemon may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to end after SIGTERM.
pub(super) const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// The same for one that nobody has a use for any more.
const DROP_PATIENCE: Duration = Duration::from_millis(500);

/// How the image comes to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Layers are served lazily; nothing is fetched ahead.
    Lazy,
    /// Layers are served lazily, what the prefetch artifacts name is fetched ahead.
    Prefetch,
    /// As prefetch, by the image's fine index where it has one.
    Fine,
    /// As fine, and what the image's pack has is taken from there.
    Pack,
    /// All layers are pulled and unpacked first.
    Full,
}

/// What the daemon is to be.
#[derive(Debug)]
pub(super) struct Setup<'a> {
    /// Where it keeps everything.
    pub(super) root: &'a Path,
    /// The program.
    pub(super) program: &'a Path,
    /// A configuration file in place of the generated one.
    pub(super) config: Option<&'a Path>,
    /// For the generated configuration.
    pub(super) mode: Mode,
    /// Registry to which plain HTTP is spoken.
    pub(super) plain_http: Option<&'a str>,
    /// For the generated configuration: where hosts.toml files are.
    pub(super) hosts_dir: Option<&'a Path>,
    /// Directory of a docker configuration in place of the user's.
    pub(super) docker_config: Option<&'a Path>,
    /// Ends the wait for it.
    pub(super) stop: &'a Stop,
}

/// A running daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    log: PathBuf,
    socket: PathBuf,
    status: PathBuf,
    metrics: PathBuf,
}

impl Daemon {
    /// Starts the daemon and waits until it listens.
    pub(super) fn start(setup: &Setup<'_>) -> Result<Self> {
        let root = setup.root;
        let (socket, metrics) = (root.join("snapshotter.sock"), root.join("metrics.sock"));
        for stale in [&socket, &metrics] {
            if stale.exists() {
                fs::remove_file(stale).with_context(|| format!("cannot remove {}", stale.display()))?;
            }
        }
        let generated = root.join("config.toml");
        if setup.config.is_none() {
            let text = configuration(setup.mode, &metrics, setup.plain_http, setup.hosts_dir);
            fs::write(&generated, text).with_context(|| format!("cannot write {}", generated.display()))?;
        }
        let log_path = root.join("snapshotter.log");
        let log = File::options().create(true).append(true).open(&log_path);
        let log = log.with_context(|| format!("cannot open {}", log_path.display()))?;
        // By this name also in a chroot, where the program's path is that of another mount namespace.
        let child = Command::new("/proc/self/exe")
            .arg0("soci")
            .envs(setup.docker_config.map(|dir| ("DOCKER_CONFIG", dir)))
            // Whatever the configuration says: nothing of a run outlives it.
            .env("SOCI_SNAPSHOTTER_KEEP_MOUNTS", "false")
            .args(["tied", "--"])
            .arg(setup.program)
            .arg("--root")
            .arg(root.join("state"))
            .arg("--address")
            .arg(&socket)
            .arg("--config")
            .arg(setup.config.unwrap_or(&generated))
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", setup.program.display()))?;
        let status = root.join("state/status.sock");
        let mut daemon = Self { child, log: log_path.clone(), socket, status, metrics };
        daemon.wait_until_it_listens(&log_path, setup.stop)?;
        Ok(daemon)
    }

    /// Its gRPC socket.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// All counters: the samples of each name added up. None when the daemon gives none: a configuration of the user's
    /// need not have them where they are looked for.
    pub(super) fn counters(&self) -> Option<BTreeMap<String, f64>> {
        let asked = [&self.status, &self.metrics].into_iter();
        asked.filter_map(|socket| status_socket::get(socket, "/metrics").ok()).map(|text| parse(&text)).next()
    }

    /// Its record of the start, if it gives one.
    pub(super) fn record(&self) -> Option<serde_json::Value> {
        let answer = status_socket::get(&self.status, "/status").ok()?;
        let mut document: serde_json::Value = serde_json::from_str(&answer).ok()?;
        document.get_mut("starts")?.get_mut(0).map(serde_json::Value::take)
    }

    /// Its last warning or error, with the reason.
    pub(super) fn last_complaint(&self) -> Option<String> {
        complaint(&fs::read_to_string(&self.log).ok()?)
    }

    /// Ends the daemon and waits for it; it is killed when it takes longer than this.
    pub(super) fn stop(mut self, patience: Duration) -> Result<()> {
        self.end(patience).context("end the snapshotter").map(drop)
    }

    /// Kills it. What it serves fails from then on, and waits for nothing.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill(); // it may have ended
    }

    fn end(&mut self, patience: Duration) -> std::io::Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::INT); // SIGINT: unmount everything, then go
        }
        let patience = Instant::now() + patience;
        while Instant::now() < patience {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        self.child.wait()
    }

    fn wait_until_it_listens(&mut self, log: &Path, stop: &Stop) -> Result<()> {
        let patience = Instant::now() + START_PATIENCE;
        loop {
            stop.check()?;
            if UnixStream::connect(&self.socket).is_ok() {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().context("watch the snapshotter")? {
                bail!("the snapshotter ended at once ({status}): {}", last_lines(log));
            }
            if Instant::now() > patience {
                bail!("the snapshotter does not listen on {}: {}", self.socket.display(), last_lines(log));
            }
            sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.end(DROP_PATIENCE) {
            tracing::warn!(%error, "cannot end the snapshotter");
        }
    }
}

/// The generated configuration file.
fn configuration(mode: Mode, metrics: &Path, plain_http: Option<&str>, hosts_dir: Option<&Path>) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string(); // a JSON string is a TOML string, too
    let (full, pack) = (mode == Mode::Full, mode == Mode::Pack);
    let fine = pack || mode == Mode::Fine;
    let prefetch = fine || mode == Mode::Prefetch;
    let mut text = format!(
        "metrics_network = \"unix\"\nmetrics_address = {}\n\n\
         [pull_modes.soci_v1]\nenable = {lazy}\n\n[pull_modes.soci_v2]\nenable = {lazy}\n\n\
         [pull_modes.parallel_pull_unpack]\nenable = {full}\nexperimental_parallel_pull_as_fallback = true\n\n\
         [restart]\nkeep_mounts = false\n\n\
         [prefetch]\nenable = {prefetch}\n\n[pack]\nenable = {pack}\nfine = {fine}\n",
        quoted(&metrics.to_string_lossy()),
        lazy = !full,
    );
    if let Some(host) = plain_http {
        let host = quoted(host);
        text = format!("{text}\n[[resolver.host.{host}.mirrors]]\nhost = {host}\ninsecure = true\n");
    }
    if let Some(dir) = hosts_dir {
        text = format!("{text}\n[registry]\nconfig_path = {}\n", quoted(&dir.to_string_lossy()));
    }
    text
}

/// The last warning or error in a log of JSON lines.
fn complaint(log: &str) -> Option<String> {
    log.lines().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| line.get(key).and_then(|value| value.as_str());
        let told = matches!(text("level")?, "WARN" | "ERROR").then(|| text("message"))??;
        Some(text("error").map_or_else(|| told.to_owned(), |error| format!("{told}: {error}")))
    })
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// The Prometheus text format, as far as counters and gauges use it.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut counters = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or(series);
        if let Ok(value) = value.parse::<f64>() {
            *counters.entry(name.to_owned()).or_insert(0.0) += value;
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complaint_is_told() {
        let log = concat!(
            r#"{"level":"WARN","message":"first","error":"x"}"#,
            "\n",
            r#"{"level":"ERROR","message":"layer cannot be unpacked","error":"hard link"}"#,
            "\n",
            r#"{"level":"INFO","message":"later"}"#,
            "\nnot json\n",
        );
        assert_eq!(complaint(log).as_deref(), Some("layer cannot be unpacked: hard link"));
        assert_eq!(complaint("x"), None);
    }

    #[test]
    fn samples_of_one_name_are_added_up() {
        let text =
            "# HELP a x\n# TYPE a counter\na{kind=\"x y\"} 2\na{kind=\"z\"} 3\nb 1.5\nbroken\nc nothing\n";
        let expected = [("a".to_owned(), 5.0), ("b".to_owned(), 1.5)];
        assert_eq!(parse(text), BTreeMap::from(expected));
    }

    #[test]
    fn each_mode_adds_one_way_to_be_ahead() {
        for (mode, prefetch, pack, fine) in [
            (Mode::Lazy, false, false, false),
            (Mode::Prefetch, true, false, false),
            (Mode::Fine, true, false, true),
            (Mode::Pack, true, true, true),
            (Mode::Full, false, false, false),
        ] {
            let text = configuration(mode, Path::new("/m"), None, None);
            let expected =
                format!("[prefetch]\nenable = {prefetch}\n\n[pack]\nenable = {pack}\nfine = {fine}\n");
            assert!(text.ends_with(&expected), "{mode:?}: {text}");
        }
    }

    #[test]
    fn modes_choose_what_is_enabled() {
        let text = configuration(
            Mode::Prefetch,
            Path::new("/r/\"m\".sock"),
            Some("10.0.0.1:5000"),
            Some(Path::new("/certs")),
        );
        assert!(text.ends_with("[registry]\nconfig_path = \"/certs\"\n"), "{text}");
        assert!(text.contains("metrics_address = \"/r/\\\"m\\\".sock\""), "{text}");
        assert!(text.contains("[prefetch]\nenable = true"), "{text}");
        assert!(text.contains("[pull_modes.soci_v1]\nenable = true"), "{text}");
        assert!(text.contains("[[resolver.host.\"10.0.0.1:5000\".mirrors]]"), "{text}");
        let text = configuration(Mode::Full, Path::new("/m"), None, None);
        assert!(text.contains("[pull_modes.soci_v2]\nenable = false"), "{text}");
        assert!(text.contains("[pull_modes.parallel_pull_unpack]\nenable = true"), "{text}");
        assert!(!text.contains("resolver"), "{text}");
    }
}
