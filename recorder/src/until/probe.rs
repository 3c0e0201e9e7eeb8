//! The watchers of rules that need one: ports, URLs, commands, notifications.
//!
//! [`Watch`] owns a thread for each of them. A thread tells of its rule once. When it has been dropped, nothing of it runs in
//! the workload any more; the last try of a port or URL may still wait for its answer, which nobody is told.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::http::{Answer, PROBE_PATIENCE};
use super::{Condition, HttpUrl, Notify, Rule, Until, exec};
use crate::workload::{Net, Spec};

/// How often a port or URL is tried, as long as nobody answers and the start is young.
const PROBE_EVERY: Duration = Duration::from_millis(10);
/// For how long a start is young.
const YOUNG: Duration = Duration::from_secs(5);
/// How often it is tried after that.
const PROBE_LATER: Duration = Duration::from_millis(50);
/// How seldom a server is asked at last that answers and is not ready: questions are work for it.
const PROBE_SELDOM: Duration = Duration::from_millis(200);

/// Something on the network that can be asked whether it answers.
#[derive(Debug, Clone)]
enum Probe {
    Tcp(u16),
    Http(HttpUrl),
}

impl Probe {
    fn of(rule: &Rule) -> Option<Self> {
        match &rule.when {
            Condition::Tcp(port) => Some(Self::Tcp(*port)),
            Condition::Http(url) => Some(Self::Http(url.clone())),
            _ => None,
        }
    }

    fn ask(&self) -> Answer {
        match self {
            Self::Tcp(port) => {
                let local = [
                    SocketAddr::from(([127, 0, 0, 1], *port)),
                    SocketAddr::from(([0u16, 0, 0, 0, 0, 0, 0, 1], *port)),
                ];
                let answers = |address| TcpStream::connect_timeout(address, PROBE_PATIENCE).is_ok();
                if local.iter().any(answers) { Answer::Ready } else { Answer::Nobody }
            }
            Self::Http(url) => url.ask(),
        }
    }
}

/// The first rule that is true although nothing has been started: on the host's network somebody else may answer.
pub fn already_true(until: &Until, net: Net) -> Option<&Rule> {
    let mut rules = until.rules().iter();
    rules.find(|rule| net == Net::Host && Probe::of(rule).is_some_and(|probe| probe.ask() == Answer::Ready))
}

/// The threads that watch.
#[derive(Debug)]
pub struct Watch {
    over: Arc<AtomicBool>,
    /// Those that are waited for: a command of theirs may run in the workload. A port or URL that does not answer keeps
    /// nobody waiting.
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Starts a thread for each rule that needs one; it calls `tell` once with the rule's place in the list.
    ///
    /// `pid` is the workload's process on the host, `spec` what it was started with.
    pub fn start(
        until: &Until,
        spec: &Spec,
        pid: u32,
        notify: Option<Notify>,
        tell: impl Fn(usize, Instant) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let mut watch = Self { over: Arc::default(), threads: Vec::new() };
        for (at, rule) in until.rules().iter().enumerate() {
            let tell = tell.clone();
            if let Some(probe) = Probe::of(rule) {
                let namespace = match spec.net {
                    Net::Host => None,
                    Net::None => Some(File::open(format!("/proc/{pid}/ns/net"))?),
                };
                let _alone = watch.spawn(move |over| {
                    if try_until(&probe, namespace.as_ref(), over) {
                        tell(at, Instant::now());
                    }
                })?;
            } else if let Condition::Exec(words) = &rule.when {
                let (words, spec) = (words.clone(), spec.clone());
                watch.add(move |over| match exec::wait(words, pid, spec, over) {
                    Ok(true) => tell(at, Instant::now()),
                    Ok(false) => {}
                    // It may also have ended already.
                    Err(error) => tracing::debug!(%error, "cannot run commands in the workload"),
                })?;
            }
        }
        if let Some(notify) = notify {
            let is_notify = |(at, rule): (usize, &Rule)| matches!(rule.when, Condition::Notify).then_some(at);
            let places: Vec<usize> = until.rules().iter().enumerate().filter_map(is_notify).collect();
            watch.add(move |over| {
                notify.listen(over, |at| places.iter().for_each(|&place| tell(place, at)));
            })?;
        }
        Ok(watch)
    }

    /// Tells the threads that nothing is to be watched any more; does not wait for them.
    pub fn stop(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    fn add(&mut self, body: impl FnOnce(&AtomicBool) + Send + 'static) -> io::Result<()> {
        self.threads.push(self.spawn(body)?);
        Ok(())
    }

    fn spawn(&self, body: impl FnOnce(&AtomicBool) + Send + 'static) -> io::Result<JoinHandle<()>> {
        let over = Arc::clone(&self.over);
        thread::Builder::new().name("probe".into()).spawn(move || body(&over))
    }
}

/// Tries until there is an answer (true) or the watch is over (false).
fn try_until(probe: &Probe, namespace: Option<&File>, over: &AtomicBool) -> bool {
    if let Some(namespace) = namespace
        && let Err(errno) = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
    {
        tracing::warn!(%errno, "cannot enter the workload's network");
        return false;
    }
    let (begin, mut refused) = (Instant::now(), PROBE_EVERY);
    while !over.load(Ordering::Relaxed) {
        thread::sleep(match probe.ask() {
            Answer::Ready => return true,
            Answer::NotYet => {
                refused = (2 * refused).min(PROBE_SELDOM);
                refused
            }
            Answer::Nobody if begin.elapsed() < YOUNG => PROBE_EVERY,
            Answer::Nobody => PROBE_LATER,
        });
    }
    false
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
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
    fn a_port_that_answers_is_seen_on_the_hosts_network_only() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        assert_eq!(Probe::Tcp(port).ask(), Answer::Ready);
        let until: Until = format!("exit or tcp:{port}+5s").parse().unwrap();
        assert!(already_true(&until, Net::Host).is_some());
        assert!(already_true(&until, Net::None).is_none());
        drop(server);
        assert_eq!(Probe::Tcp(port).ask(), Answer::Nobody);
    }
}
