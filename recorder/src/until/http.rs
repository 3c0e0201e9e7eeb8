//! A plain `http` URL, and the question whether it answers well. Holds no state between two tries.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long one try may take.
pub(super) const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// A plain `http` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    host: String,
    port: u16,
    path: String,
}

/// What a try has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is ready.
    Ready,
    /// Somebody answered, and is not ready.
    NotYet,
    /// Nobody answered: the try has cost the workload nothing.
    Nobody,
}

impl HttpUrl {
    /// Reads `http://HOST[:PORT][/PATH][?QUERY]`; an IPv6 address stands in brackets. A fragment is nothing to a server.
    pub(super) fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("http://")?;
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|&port| port > 0)?),
            _ => (authority, 80),
        };
        let host = match host.strip_prefix('[').map(|host| host.strip_suffix(']')) {
            Some(inner) => inner.filter(|inner| inner.parse::<Ipv6Addr>().is_ok())?,
            None => Some(host).filter(|host| !host.contains([':', '@', ']']))?,
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        (!host.is_empty() && clean(host) && clean(&path)).then(|| Self { host: host.into(), port, path })
    }

    /// Does it answer with a status of 200 to 399?
    pub(super) fn ask(&self) -> Answer {
        let Ok(addresses) = (self.host.as_str(), self.port).to_socket_addrs() else { return Answer::Nobody };
        let mut answer = Answer::Nobody;
        for address in addresses {
            let Ok(stream) = TcpStream::connect_timeout(&address, PROBE_PATIENCE) else { continue };
            match self.status(stream) {
                Ok(200..400) => return Answer::Ready,
                _ => answer = Answer::NotYet,
            }
        }
        answer
    }

    fn status(&self, mut stream: TcpStream) -> io::Result<u16> {
        stream.set_read_timeout(Some(PROBE_PATIENCE))?;
        stream.set_write_timeout(Some(PROBE_PATIENCE))?;
        let request = format!("GET {} HTTP/1.0\r\nHost: {}\r\n\r\n", self.path, self.authority());
        stream.write_all(request.as_bytes())?;
        let mut start = Vec::new();
        stream.take(12).read_to_end(&mut start)?; // "HTTP/1.1 200"
        let status =
            start.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok());
        status.and_then(|status| status.parse().ok()).ok_or_else(|| io::Error::other("not an HTTP answer"))
    }

    /// Host and port as they stand in a URL and in a request.
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    #[test]
    fn urls_are_read_and_shown() {
        let url = |host: &str, port, path: &str| HttpUrl { host: host.into(), port, path: path.into() };
        assert_eq!(HttpUrl::parse("http://[::1]:8080/a?b"), Some(url("::1", 8080, "/a?b")));
        assert_eq!(HttpUrl::parse("http://x"), Some(url("x", 80, "/")));
        assert_eq!(url("::1", 8080, "/a").to_string(), "http://[::1]:8080/a");
        assert_eq!(HttpUrl::parse("http://x?q=/1#part"), Some(url("x", 80, "/?q=/1")));
        assert_eq!(HttpUrl::parse("http://x:8#part"), Some(url("x", 8, "/")));
        let bad = [
            "http://",
            "http://x/a b",
            "https://x/",
            "http://x:0/",
            "http://::1:80/",
            "http://[x]/",
            "http://[::1/",
        ];
        for bad in bad {
            assert_eq!(HttpUrl::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_good_status_is_ready_and_a_bad_one_is_not_over_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = TcpListener::bind(address).unwrap();
            let address = server.local_addr().unwrap();
            let serve = thread::spawn(move || {
                for answer in ["HTTP/1.1 503 no\r\n\r\n", "HTTP/1.1 204 yes\r\n\r\n"] {
                    let (mut stream, _) = server.accept().unwrap();
                    let mut request = [0; 256];
                    let length = stream.read(&mut request).unwrap();
                    let request = String::from_utf8_lossy(&request[..length]).into_owned();
                    let expected = format!("GET /?health HTTP/1.0\r\nHost: {address}\r\n\r\n");
                    assert_eq!(request, expected, "as servers want it");
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            });
            let url = HttpUrl::parse(&format!("http://{address}?health")).unwrap();
            assert_eq!((url.ask(), url.ask()), (Answer::NotYet, Answer::Ready));
            serve.join().unwrap();
            assert_eq!(url.ask(), Answer::Nobody);
        }
    }
}
