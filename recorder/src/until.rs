//! When a recording is over, or a started workload is useful: rules, and the watchers of those that need one.
//!
//! A rule is `exit`, `time:SECONDS`, `log:REGEX`, `tcp:PORT`, `http:URL` or `signal`; the first of several that comes
//! true counts. [`Watch`] owns the probing threads; dropping it ends them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use regex::bytes::Regex;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::workload::Net;

/// How often a port or URL is tried.
const PROBE_EVERY: Duration = Duration::from_millis(10);
/// How long one try may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// One end rule.
#[derive(Debug, Clone)]
pub enum Rule {
    /// The workload ended.
    Exit,
    /// This much time has passed since the start.
    Time(Duration),
    /// A line of standard output or error matches.
    Log(Regex),
    /// The port on the loopback interface of the workload's network accepts connections.
    Tcp(u16),
    /// The URL answers with a status of 200 to 399.
    Http(HttpUrl),
    /// The recorder got SIGINT, SIGTERM or SIGHUP.
    Signal,
}

/// A plain `http` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    host: String,
    port: u16,
    path: String,
}

/// Why a text is not a rule.
#[derive(Debug, thiserror::Error)]
#[error("bad end rule {text:?}: {reason}")]
pub struct RuleError {
    text: String,
    reason: String,
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let bad = |reason: &str| RuleError { text: text.into(), reason: reason.into() };
        let (kind, value) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "exit" | "signal" if !value.is_empty() => Err(bad("takes no value")),
            "exit" => Ok(Self::Exit),
            "signal" => Ok(Self::Signal),
            "time" => {
                let seconds = value.strip_suffix('s').unwrap_or(value).parse().ok();
                let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                time.map(Self::Time).ok_or_else(|| bad("expected time:SECONDS"))
            }
            "log" if value.is_empty() => Err(bad("expected log:REGEX")),
            "log" => Regex::new(value).map(Self::Log).map_err(|error| bad(&error.to_string())),
            "tcp" => match value.parse() {
                Ok(port) if port > 0 => Ok(Self::Tcp(port)),
                _ => Err(bad("expected tcp:PORT")),
            },
            "http" => {
                let url = if value.starts_with("//") { text } else { value };
                HttpUrl::parse(url)
                    .map(Self::Http)
                    .ok_or_else(|| bad("expected http:http://HOST[:PORT]/PATH"))
            }
            _ => Err(bad("expected exit, time:S, log:REGEX, tcp:PORT, http:URL or signal")),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit => f.write_str("exit"),
            Self::Time(time) => write!(f, "time:{}", time.as_secs_f64()),
            Self::Log(regex) => write!(f, "log:{regex}"),
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::Http(url) => write!(f, "http:http://{}:{}{}", url.host, url.port, url.path),
            Self::Signal => f.write_str("signal"),
        }
    }
}

impl HttpUrl {
    fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|&port| port > 0)?),
            _ => (authority, 80),
        };
        let clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        (!host.is_empty() && clean(host) && clean(path)).then(|| Self {
            host: host.trim_start_matches('[').trim_end_matches(']').into(),
            port,
            path: path.into(),
        })
    }

    fn ready(&self) -> bool {
        let Ok(addresses) = (self.host.as_str(), self.port).to_socket_addrs() else { return false };
        addresses
            .into_iter()
            .any(|address| self.status(address).is_ok_and(|status| (200..400).contains(&status)))
    }

    fn status(&self, address: SocketAddr) -> io::Result<u16> {
        let mut stream = TcpStream::connect_timeout(&address, PROBE_PATIENCE)?;
        stream.set_read_timeout(Some(PROBE_PATIENCE))?;
        stream.set_write_timeout(Some(PROBE_PATIENCE))?;
        let request = format!("GET {} HTTP/1.0\r\nHost: {}:{}\r\n\r\n", self.path, self.host, self.port);
        stream.write_all(request.as_bytes())?;
        let mut start = Vec::new();
        stream.take(12).read_to_end(&mut start)?; // "HTTP/1.1 200"
        let status =
            start.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok());
        status.and_then(|status| status.parse().ok()).ok_or_else(|| io::Error::other("not an HTTP answer"))
    }
}

/// Something that can be asked whether it answers.
#[derive(Debug, Clone)]
enum Probe {
    Tcp(u16),
    Http(HttpUrl),
}

impl Probe {
    fn of(rule: &Rule) -> Option<Self> {
        match rule {
            Rule::Tcp(port) => Some(Self::Tcp(*port)),
            Rule::Http(url) => Some(Self::Http(url.clone())),
            _ => None,
        }
    }

    fn ready(&self) -> bool {
        match self {
            Self::Tcp(port) => {
                let local = [
                    SocketAddr::from(([127, 0, 0, 1], *port)),
                    SocketAddr::from(([0u16, 0, 0, 0, 0, 0, 0, 1], *port)),
                ];
                local.iter().any(|address| TcpStream::connect_timeout(address, PROBE_PATIENCE).is_ok())
            }
            Self::Http(url) => url.ready(),
        }
    }
}

/// The first rule that is true although nothing has been started: on the host's network somebody else may answer.
pub fn already_true(rules: &[Rule], net: Net) -> Option<&Rule> {
    rules.iter().find(|rule| net == Net::Host && Probe::of(rule).is_some_and(|probe| probe.ready()))
}

/// The regular expressions of log rules.
pub fn log_patterns(rules: &[Rule]) -> Vec<Regex> {
    rules
        .iter()
        .filter_map(|rule| if let Rule::Log(regex) = rule { Some(regex.clone()) } else { None })
        .collect()
}

/// When a time rule comes true.
pub fn deadline(rules: &[Rule], start: Instant) -> Option<Instant> {
    rules
        .iter()
        .filter_map(|rule| if let Rule::Time(time) = rule { start.checked_add(*time) } else { None })
        .min()
}

/// Does the end of the workload count as ready?
pub fn ends_on_exit(rules: &[Rule]) -> bool {
    rules.is_empty() || rules.iter().any(|rule| matches!(rule, Rule::Exit))
}

/// Does a signal to the recorder count as ready?
pub fn ends_on_signal(rules: &[Rule]) -> bool {
    rules.iter().any(|rule| matches!(rule, Rule::Signal))
}

/// The threads that try ports and URLs.
#[derive(Debug)]
pub struct Watch {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Starts a thread for each port or URL; `ready` is called once by each that gets an answer.
    ///
    /// `pid` is the workload's process on the host: with [`Net::None`] its network is entered.
    pub fn start(
        rules: &[Rule],
        net: Net,
        pid: u32,
        ready: impl Fn(Instant) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let mut watch = Self { over: Arc::clone(&over), threads: Vec::new() };
        for probe in rules.iter().filter_map(Probe::of) {
            let namespace = match net {
                Net::Host => None,
                Net::None => Some(File::open(format!("/proc/{pid}/ns/net"))?),
            };
            let (over, ready) = (Arc::clone(&over), ready.clone());
            let body = move || {
                if let Some(namespace) = namespace
                    && let Err(errno) =
                        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                {
                    tracing::warn!(%errno, "cannot enter the workload's network");
                    return;
                }
                while !over.load(Ordering::Relaxed) {
                    if probe.ready() {
                        return ready(Instant::now());
                    }
                    thread::sleep(PROBE_EVERY);
                }
            };
            watch.threads.push(thread::Builder::new().name("probe".into()).spawn(body)?);
        }
        Ok(watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic of that thread has been reported by itself
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn rules_are_read_and_wrong_ones_refused() {
        assert!(matches!("exit".parse(), Ok(Rule::Exit)));
        assert!(matches!("signal".parse(), Ok(Rule::Signal)));
        assert!(matches!("time:1.5".parse(), Ok(Rule::Time(time)) if time == Duration::from_millis(1500)));
        assert!(matches!("log:a:b+".parse(), Ok(Rule::Log(regex)) if regex.is_match(b"xa:bbb")));
        assert!(matches!("tcp:80".parse(), Ok(Rule::Tcp(80))));
        for url in ["http:http://[::1]:8080/a?b", "http://[::1]:8080/a?b"] {
            let expected = HttpUrl { host: "::1".into(), port: 8080, path: "/a?b".into() };
            assert!(matches!(url.parse(), Ok(Rule::Http(url)) if url == expected));
        }
        assert_eq!(
            HttpUrl::parse("http://x").unwrap(),
            HttpUrl { host: "x".into(), port: 80, path: "/".into() }
        );
        for bad in [
            "",
            "exit:1",
            "time:",
            "time:-1",
            "time:nan",
            "log:",
            "log:(",
            "tcp:0",
            "tcp:x",
            "http:https://x/",
            "http://",
            "http://x/a b",
            "ready",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn probes_see_ports_and_statuses() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let serve = thread::spawn(move || {
            for answer in ["HTTP/1.1 503 no\r\n\r\n", "HTTP/1.1 204 yes\r\n\r\n"] {
                let (mut stream, _) = server.accept().unwrap();
                let mut request = [0; 256];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
            server
        });
        let url = HttpUrl::parse(&format!("http://127.0.0.1:{port}/health")).unwrap();
        assert!(!url.ready());
        assert!(url.ready());
        let server = serve.join().unwrap();
        assert!(Probe::Tcp(port).ready());
        assert!(already_true(&[Rule::Tcp(port)], Net::Host).is_some());
        assert!(already_true(&[Rule::Tcp(port)], Net::None).is_none());
        drop(server);
        assert!(!Probe::Tcp(port).ready());
    }
}
