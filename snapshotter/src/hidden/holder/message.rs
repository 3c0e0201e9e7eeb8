//! What servers and the holder say to each other: one message, one text.
//!
//! The first line is a verb with its argument; names of descriptors follow, a line each, in the order of the descriptors.
//! Pure. The two sides may be of different versions of the program, so verbs only ever get added.

use std::time::Duration;

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Waits for the lease. `patience` is for the server that has it.
    Lease { patience: Duration },
    /// Keeps the descriptors of this message.
    Keep { names: Vec<String> },
    /// Closes all descriptors.
    GiveUp,
}

/// What the holder says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The lease is the server's, and so are the descriptors of this message.
    Granted {
        forced: bool,
        names: Vec<String>,
    },
    Done,
    Refused(String),
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Lease { patience } => format!("lease {}", patience.as_millis()),
            Self::Keep { names } => lines("keep", names),
            Self::GiveUp => "give-up".to_owned(),
        }
        .into_bytes()
    }

    /// `None`: not a request.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (verb, names) = split(bytes)?;
        Some(match verb {
            "keep" => Self::Keep { names },
            "give-up" => Self::GiveUp,
            _ => {
                let patience = verb.strip_prefix("lease ")?.parse().ok()?;
                Self::Lease { patience: Duration::from_millis(patience) }
            }
        })
    }
}

impl Answer {
    /// Its verb.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Granted { .. } => "granted",
            Self::Done => "done",
            Self::Refused(_) => "refused",
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Granted { forced, names } => lines(&format!("granted {}", u8::from(*forced)), names),
            Self::Done => "done".to_owned(),
            Self::Refused(why) => format!("refused {}", why.replace('\n', " ")),
        }
        .into_bytes()
    }

    /// `None`: not an answer.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (verb, names) = split(bytes)?;
        Some(match verb {
            "granted 0" => Self::Granted { forced: false, names },
            "granted 1" => Self::Granted { forced: true, names },
            "done" => Self::Done,
            _ => Self::Refused(verb.strip_prefix("refused ")?.to_owned()),
        })
    }
}

fn lines(verb: &str, names: &[String]) -> String {
    std::iter::once(verb).chain(names.iter().map(String::as_str)).collect::<Vec<_>>().join("\n")
}

fn split(bytes: &[u8]) -> Option<(&str, Vec<String>)> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    Some((lines.next()?, lines.map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_way() {
        let names = vec!["fuse".to_owned(), "journal".to_owned()];
        for request in [
            Request::Lease { patience: Duration::from_millis(2500) },
            Request::Keep { names: names.clone() },
            Request::GiveUp,
        ] {
            assert_eq!(Request::parse(&request.encode()), Some(request));
        }
        for answer in [
            Answer::Granted { forced: true, names: names.clone() },
            Answer::Granted { forced: false, names: Vec::new() },
            Answer::Done,
            Answer::Refused("no lease".to_owned()),
        ] {
            assert_eq!(Answer::parse(&answer.encode()), Some(answer));
        }
    }

    #[test]
    fn other_bytes_are_no_messages() {
        for bytes in [&b""[..], b"lease", b"lease -1", b"lease x", b"\xff\xff", b"granted 2", b"hello\nfuse"]
        {
            assert_eq!((Request::parse(bytes), Answer::parse(bytes)), (None, None));
        }
    }
}
