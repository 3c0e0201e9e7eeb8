//! One end rule: a condition and the time that the recording goes on after it. Plain data.

use std::fmt;
use std::time::Duration;

use regex::bytes::Regex;

use super::HttpUrl;

/// One end rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What has to come true.
    pub when: Condition,
    /// How long to go on after that; without one, the recording's tail counts.
    pub tail: Option<Duration>,
}

/// What can come true.
#[derive(Debug, Clone)]
pub enum Condition {
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
    /// The command, run inside the workload's namespaces, exits with 0. Never empty.
    Exec(Vec<String>),
    /// The workload says `READY=1` on the socket that NOTIFY_SOCKET names.
    Notify,
    /// The recorder got SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// Any other rule of the list has come true.
    Ready,
}

impl Condition {
    /// Does it only tell that the workload is useful, so that [`Condition::Ready`] may say when the recording ends?
    pub fn tells_readiness(&self) -> bool {
        match self {
            Self::Log(_) | Self::Tcp(_) | Self::Http(_) | Self::Exec(_) | Self::Notify => true,
            Self::Exit | Self::Time(_) | Self::Signal | Self::Ready => false,
        }
    }
}

/// Why a text is not a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad end rule {text:?}: {reason}")]
pub struct RuleError {
    pub(super) text: String,
    pub(super) reason: String,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit => f.write_str("exit"),
            Self::Time(time) => write!(f, "time:{}", time.as_secs_f64()),
            Self::Log(regex) => write!(f, "log:{regex}"),
            Self::Tcp(port) => write!(f, "tcp:{port}"),
            Self::Http(url) => write!(f, "http:{url}"),
            Self::Exec(words) => write!(f, "exec:{}", words.join(" ")),
            Self::Notify => f.write_str("notify"),
            Self::Signal => f.write_str("signal"),
            Self::Ready => f.write_str("ready"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tail {
            None => write!(f, "{}", self.when),
            Some(tail) => write!(f, "{}+{}s", self.when, tail.as_secs_f64()),
        }
    }
}
