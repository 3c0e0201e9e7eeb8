//! `cargo xtask link`: an emulated link (rate and delay) between two network namespaces, with Debian's
//! docker-registry behind it, without netem (which not every kernel has).
//!
//! The namespaces have no names and belong to the emulator process, which ends when our end of its stdin
//! closes: however xtask ends, no namespace, device or process is left. TCP sees a real round trip, so
//! handshakes, slow start and idle restarts cost what they cost on a wire.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::exec;
use crate::lab::{Lab, LabArgs};
use crate::setup::{self, Need};

const EMULATOR: &str = include_str!("../link/linkemu.c");
const CLIENT: &str = "198.18.0.1";
const SERVER: &str = "198.18.0.2";
/// Where the registry listens, as the client's namespace sees it.
pub(crate) const REGISTRY: &str = "198.18.0.2:5602";
/// Longest time a packet waits in the router's queue (ms), when the round trip is not longer.
const QUEUE_MS: f64 = 20.0;

/// Run a command in the client's namespace of an emulated link with a registry behind it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rate and round trip: MBIT:RTT_MS; 0:0 is a link without limits
    #[arg(long, default_value = "100:5")]
    net: Net,
    #[command(flatten)]
    lab: LabArgs,
    /// The command; the registry answers at 198.18.0.2:5602 (plain HTTP)
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    let lab = args.lab.open()?;
    let link = Link::up(&lab, args.net)?;
    let before = link.received()?;
    let started = Instant::now();
    let status = link.client(&args.command).status()?;
    let seconds = started.elapsed().as_secs_f64();
    let bytes = link.received()? - before;
    eprintln!("{} | {seconds:.3} s | {bytes} bytes received", link.net);
    ensure!(status.success(), "{} ended with {status}", args.command.join(" "));
    Ok(())
}

/// Rate and delay of a link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Net {
    /// Mbit/s, 0 for no limit.
    pub(crate) mbit: f64,
    /// Round trip in milliseconds.
    pub(crate) rtt_ms: f64,
}

impl Net {
    /// Neither rate limit nor delay.
    pub(crate) const UNLIMITED: Self = Self { mbit: 0.0, rtt_ms: 0.0 };
}

impl FromStr for Net {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| text.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0);
        let parsed = text
            .split_once(':')
            .and_then(|(mbit, rtt)| Some(Self { mbit: number(mbit)?, rtt_ms: number(rtt)? }));
        parsed.with_context(|| format!("{text} is not MBIT:RTT_MS, as in 100:5"))
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.mbit, self.rtt_ms)
    }
}

/// A running link with a registry; dropping it ends both.
pub(crate) struct Link {
    net: Net,
    emulator: Child,
    registry: Option<Child>,
    client_space: PathBuf,
    registry_space: PathBuf,
    registry_log: PathBuf,
}

impl Link {
    /// Makes the namespaces, joins them, and starts docker-registry on the far side.
    pub(crate) fn up(lab: &Lab, net: Net) -> Result<Self> {
        setup::require_root("the emulated link")?;
        setup::ensure(&[Need::Link, Need::Registry])?;
        let delay_us = net.rtt_ms * 500.0;
        let queue_ms = net.rtt_ms.max(QUEUE_MS);
        let mut emulator = Command::new(lab.compile("linkemu", EMULATOR, &[])?)
            .args([net.mbit, delay_us, queue_ms].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the link emulator")?;
        let mut up = String::new();
        let stdout = emulator.stdout.take().context("the emulator has a stdout")?;
        BufReader::new(stdout).read_line(&mut up)?;
        let [_, client, registry] = up.split_whitespace().collect::<Vec<_>>()[..] else {
            bail!(
                "the link emulator did not come up: it needs /dev/net/tun (modprobe tun) and CAP_NET_ADMIN"
            );
        };
        let space = |fd: &str| PathBuf::from(format!("/proc/{}/fd/{fd}", emulator.id()));
        let log = lab.dir("log")?.join(format!("registry-{}.log", std::process::id()));
        let mut link = Self {
            net,
            client_space: space(client),
            registry_space: space(registry),
            registry_log: log,
            emulator,
            registry: None,
        };
        Self::configure(&link.client_space, CLIENT)?;
        Self::configure(&link.registry_space, SERVER)?;
        link.start_registry(lab)?;
        Ok(link)
    }

    /// The link's rate and delay.
    pub(crate) fn net(&self) -> Net {
        self.net
    }

    /// A command that runs on the client's side; it gets `SIGTERM` when the calling thread ends.
    pub(crate) fn client<S: AsRef<std::ffi::OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        Self::enter(&self.client_space, words)
    }

    /// Bytes that the client's side received so far, by its interface counter.
    pub(crate) fn received(&self) -> Result<u64> {
        let table = fs::read_to_string(format!("/proc/{}/net/dev", self.emulator.id()))?;
        let line = table.lines().find_map(|line| line.trim_start().strip_prefix("link0:"));
        let received = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        received.context("the link's device has no counters")
    }

    /// How long the registry's log is now.
    pub(crate) fn log_end(&self) -> Result<u64> {
        Ok(fs::metadata(&self.registry_log)?.len())
    }

    /// This part of the registry's log: a line for each request, written when it was answered.
    pub(crate) fn log(&self, part: Range<u64>) -> Result<String> {
        let mut log = fs::File::open(&self.registry_log)?;
        log.seek(SeekFrom::Start(part.start))?;
        let mut text = Vec::new();
        log.take(part.end - part.start).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn enter<S: AsRef<std::ffi::OsStr>>(space: &Path, words: impl IntoIterator<Item = S>) -> Command {
        let net = format!("--net={}", space.display());
        let mut command = exec::tethered("TERM", ["nsenter", &net, "--"]);
        command.args(words);
        command
    }

    fn configure(space: &Path, address: &str) -> Result<()> {
        // TCP forgets what it learnt of the path with each connection, as a first contact would.
        let script = format!(
            "ip link set lo up && ip address add {address}/30 dev link0 && \
             ip link set link0 mtu 1500 gso_max_size 16384 txqueuelen 1000 up && \
             echo 1 >/proc/sys/net/ipv4/tcp_no_metrics_save"
        );
        exec::read(&mut Self::enter(space, ["sh", "-c", &script])).map(drop)
    }

    fn start_registry(&mut self, lab: &Lab) -> Result<()> {
        let storage = lab.dir("registry")?;
        let config = self.registry_log.with_extension("yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: false}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: \"{REGISTRY}\"}}\n",
                storage.display()
            ),
        )?;
        let log = fs::File::create(&self.registry_log)?;
        let child = Self::enter(&self.registry_space, ["docker-registry", "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start docker-registry")?;
        self.registry = Some(child);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.registry_answers()? {
            if Instant::now() > deadline {
                bail!("docker-registry does not answer: see {}", self.registry_log.display());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Asks the registry for its version endpoint, from the client's side.
    fn registry_answers(&self) -> Result<bool> {
        self.inside(|| {
            let Ok(mut stream) = TcpStream::connect(REGISTRY) else { return Ok(false) };
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /v2/ HTTP/1.0\r\nHost: registry\r\n\r\n")?;
            let mut answer = [0; 12];
            Ok(stream.read_exact(&mut answer).is_ok() && answer.ends_with(b" 200"))
        })
    }

    /// Runs `work` on a thread that is in the client's namespace; the rest of this process stays where it is.
    fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let space = fs::File::open(&self.client_space)?;
        let thread = thread::spawn(move || {
            let network = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(space.as_fd(), network)?;
            work()
        });
        thread.join().expect("work on the link does not panic")
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for child in self.registry.iter_mut().chain([&mut self.emulator]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_net_is_rate_and_round_trip() {
        let net: Net = "100:2.5".parse().unwrap();
        assert_eq!((net.mbit, net.rtt_ms), (100.0, 2.5));
        assert_eq!(net.to_string(), "100:2.5");
        assert_eq!("0:0".parse::<Net>().unwrap(), Net::UNLIMITED);
        for wrong in ["100", "100:", ":5", "-1:5", "100:x", "inf:1"] {
            assert!(wrong.parse::<Net>().is_err(), "{wrong}");
        }
    }
}
