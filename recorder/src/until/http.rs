//! A plain `http` URL, and the question whether it answers well. Holds no state between two tries.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};

use super::probe::PROBE_PATIENCE;

/// A plain `http` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    host: String,
    port: u16,
    path: String,
}

impl HttpUrl {
    /// Reads `http://HOST[:PORT][/PATH]`.
    pub(super) fn parse(url: &str) -> Option<Self> {
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

    /// Does it answer with a status of 200 to 399?
    pub(super) fn ready(&self) -> bool {
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

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "http://[{}]:{}{}", self.host, self.port, self.path);
        }
        write!(f, "http://{}:{}{}", self.host, self.port, self.path)
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
        for bad in ["http://", "http://x/a b", "https://x/", "http://x:0/"] {
            assert_eq!(HttpUrl::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_good_status_is_ready_and_a_bad_one_is_not() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let serve = thread::spawn(move || {
            for answer in ["HTTP/1.1 503 no\r\n\r\n", "HTTP/1.1 204 yes\r\n\r\n"] {
                let (mut stream, _) = server.accept().unwrap();
                let mut request = [0; 256];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let url = HttpUrl::parse(&format!("http://127.0.0.1:{port}/health")).unwrap();
        assert!(!url.ready());
        assert!(url.ready());
        serve.join().unwrap();
    }
}
