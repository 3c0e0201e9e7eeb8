//! containerd's socket when containerd is not behind it: nobody, nobody any more, a file, somebody who says nothing, somebody
//! else. Each is an error with its reason and a hint, or a note where a command goes on without; never a panic, and never a
//! wait that has no end.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use harness::daemon::program;
use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::registry::TestRegistry;
use harness::soci::{Outcome, Soci};
use soci_core::media_type::OCI_LAYER_GZIP;

/// Who is behind the socket, and what is said of it.
const STATES: [(&str, &str); 7] = [
    ("missing", "no such socket"),
    ("stale", "connection refused: nothing listens on this socket"),
    ("file", "not a socket"),
    ("mute", "no answer within 4 s"),
    ("http", "not containerd: it does not speak gRPC"),
    ("closing", "not containerd: it does not speak gRPC"),
    ("other", "not containerd: a gRPC service without containerd's namespaces"),
];

/// Makes the sockets in `dir`. What listens lives as long as the test's process.
fn sockets(dir: &Path) {
    let listen = |name: &str, serve: fn(UnixStream)| {
        let listener = UnixListener::bind(dir.join(name)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                thread::spawn(move || serve(stream.unwrap()));
            }
        });
    };
    drop(UnixListener::bind(dir.join("stale")).unwrap());
    fs::write(dir.join("file"), "x").unwrap();
    // Until the client gives up.
    listen("mute", |mut stream| drop(stream.read_to_end(&mut Vec::new())));
    listen("http", |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ =
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
    listen("closing", drop);
    // Empty settings, an acknowledgement, and an answer of headers alone: status 200, content-type, grpc-status 12.
    listen("other", |mut stream| {
        let mut seen = Vec::new();
        let mut piece = [0; 4096];
        // The request has come when its path has: it is stored as a literal or in Huffman's code, 20 bytes at least.
        while seen.len() < 160 {
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(n) => seen.extend_from_slice(&piece[..n]),
            }
        }
        let mut headers = vec![0x88, 0x0f, 0x10, 16];
        headers.extend_from_slice(b"application/grpc");
        headers.extend_from_slice(&[0x00, 11]);
        headers.extend_from_slice(b"grpc-status");
        headers.extend_from_slice(&[2]);
        headers.extend_from_slice(b"12");
        let frame = |kind: u8, flags: u8, stream: u8, body: &[u8]| {
            [&[0, 0, body.len() as u8, kind, flags, 0, 0, 0, stream], body].concat()
        };
        let answer = [frame(4, 0, 0, b""), frame(4, 1, 0, b""), frame(1, 0b101, 1, &headers)].concat();
        let _ = stream.write_all(&answer);
        let _ = stream.read_to_end(&mut Vec::new());
    });
}

struct Place {
    soci: Soci,
}

impl Place {
    fn new() -> Self {
        let soci = Soci::new();
        sockets(soci.dir());
        let tar = TarWriter::default().file("a", &half_random(300_000, 1)).finish();
        disk_image::write(&soci.dir().join("image"), "v1", &[(OCI_LAYER_GZIP, gzip(&tar, 6))]);
        Self { soci }
    }

    fn run(&self, state: &str, words: &str) -> Outcome {
        let socket = self.soci.dir().join(state);
        self.soci.run(["-a", socket.to_str().unwrap()].into_iter().chain(words.split(' ')))
    }
}

fn tells(outcome: &Outcome, reason: &str, what: &str) {
    let Outcome { code, stderr, .. } = outcome;
    assert_eq!(*code, 1, "{what}: {stderr}");
    assert!(stderr.contains(reason), "{what}: {stderr}");
    assert!(stderr.contains("\nhint: "), "{what}: {stderr}");
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
}

#[test]
fn commands_that_need_containerd_say_why_it_cannot_be_used() {
    let place = Place::new();
    for (state, reason) in STATES {
        for words in [
            "create containerd://127.0.0.1:1/a:1",
            "--content-store containerd create 127.0.0.1:1/a:1",
            "push 127.0.0.1:1/a:1 --content-store containerd",
            "convert 127.0.0.1:1/a:1 127.0.0.1:1/b:1",
        ] {
            tells(&place.run(state, words), reason, &format!("{state}: {words}"));
        }
    }
}

#[test]
fn commands_that_can_do_without_go_on_and_say_so() {
    let place = Place::new();
    let registry = TestRegistry::start();
    let image = registry.image("app:v1");
    place.run("missing", "create --min-layer-size 0 oci:image").ok();
    place.run("missing", &format!("push --image oci:image {image}")).ok();
    for (state, reason) in STATES {
        for words in [
            format!("create -q --min-layer-size 0 {image}"),
            format!("push {image}"),
            "index list".to_owned(),
        ] {
            let outcome = place.run(state, &words);
            let note = outcome
                .stderr
                .lines()
                .filter(|line| line.starts_with("note: going on without containerd"))
                .count();
            assert_eq!(
                (outcome.code, note),
                (0, usize::from(state != "missing")),
                "{state} {words}: {}",
                outcome.stderr
            );
            assert!(
                state == "missing" || outcome.stderr.contains(reason),
                "{state} {words}: {}",
                outcome.stderr
            );
        }
    }
}

#[test]
fn doctor_says_who_answers() {
    let place = Place::new();
    for (state, reason) in STATES {
        let outcome = place.run(state, "doctor --json");
        let findings: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        let containerd =
            findings.as_array().unwrap().iter().find(|one| one["check"] == "containerd").unwrap();
        assert!(containerd["found"].as_str().unwrap().ends_with(reason), "{state}: {containerd}");
    }
}

/// As root, the call is made as nobody.
#[test]
fn a_socket_of_somebody_else_is_named_as_that() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = dir.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o000)).unwrap();
    // The program's own directory may be closed to others.
    let soci: PathBuf = dir.path().join("soci");
    fs::copy(program("soci"), &soci).unwrap();
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&soci);
        command
    } else {
        std::process::Command::new(&soci)
    };
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o777)).unwrap();
    command.arg("--root").arg(root.path().join("root")).arg("-a").arg(&socket);
    let output = command.args(["create", "containerd://127.0.0.1:1/a:1"]).output().unwrap();
    let outcome = Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::new(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    tells(&outcome, "permission denied", "another user's socket");
}
