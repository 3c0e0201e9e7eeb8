//! Signals and time-outs at every moment of `soci record` and `soci run`: while a registry keeps them waiting for a
//! manifest or a layer, and while the workload runs or waits for a file. It ends, by itself and with the right exit code,
//! and nothing is left. Needs root and FUSE.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use harness::daemon::program;
use harness::faults::{Fault, When};
use harness::image::{LayerSource, Published, publish};
use harness::layout;
use harness::machine::processes_mentioning;
use harness::patience::eventually;
use harness::registry::{Server, TestRegistry};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A registry with an image: the program `do`, and a file that no compression makes small.
struct Place {
    registry: TestRegistry,
    image: Published,
    dir: TempDir,
}

/// How it is ended, and the exit code that comes of it.
const ENDS: [(Option<Signal>, i32); 4] =
    [(Some(Signal::INT), 130), (Some(Signal::TERM), 143), (Some(Signal::HUP), 129), (None, 4)];

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        layout::compile_workload(&layer.join("bin/do"));
        fs::set_permissions(layer.join("bin/do"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(layer.join("data")).unwrap();
        let noise = (0..4u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8);
        fs::write(layer.join("data/big"), noise.collect::<Vec<u8>>()).unwrap();
        let registry = TestRegistry::start();
        let image = publish(&registry, "app", &[LayerSource::of_tar(&layout::tar(&layer))], 1 << 20);
        for name in ["tmp", "state"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { registry, image, dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, name: &str, flags: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(program("soci"));
        command.arg(name).env("TMPDIR", self.path("tmp")).env("DOCKER_CONFIG", self.dir.path());
        command.args(["--address", "/nowhere.sock"]);
        if name == "record" {
            command.args(["--engine", "fuse", "--name", "t", "--force", "--state"]).arg(self.path("state"));
            command.arg("--out").arg(self.path("out")).arg("--image");
        }
        command.arg(&self.image.reference).args(flags).args(["--", "/bin/do"]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Nothing runs, and nothing is on disk but what is kept on purpose.
    fn assert_clean(&self, what: &str) {
        let mark = self.dir.path().to_string_lossy().into_owned();
        eventually("all processes have ended", || processes_mentioning(&mark).is_empty());
        assert_eq!(names(&self.path("tmp")), Vec::<String>::new(), "{what}");
        let mut left = names(&self.path("state"));
        left.extend(names(&self.path("state/layers")).into_iter().filter(|name| name.starts_with("new-")));
        left.retain(|name| !["layers", "layers.lock", "runs.lock"].contains(&&**name));
        assert_eq!(left, Vec::<String>::new(), "{what}");
    }

    fn layer(&self) -> When {
        When::path(self.image.layers[0].to_string())
    }

    fn layer_was_asked_for(&self) -> bool {
        let digest = self.image.layers[0].to_string();
        self.registry
            .requests()
            .iter()
            .any(|request| request.method == "GET" && request.path.contains(&digest))
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
}

/// Waits for the end, and tells what was said.
fn end(mut child: Child) -> (ExitStatus, String) {
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap(), said)
}

#[test]
fn whatever_a_registry_keeps_waiting_can_be_stopped() {
    let place = Place::new();
    for (command, flags) in [("record", &[][..]), ("run", &["--mode", "full"][..])] {
        for phase in ["resolve", "layer"] {
            for (sent, code) in ENDS {
                let what = format!("{command}, {phase}, {sent:?}");
                place.registry.faults().clear();
                match phase {
                    "resolve" => place.registry.faults().add(When::path("/manifests/"), Fault::Hang),
                    _ => place.registry.faults().add(place.layer(), Fault::Stall(1000)),
                }
                place.registry.forget_requests();
                let before = place.registry.connections(Server::Registry);
                let timeout = if sent.is_none() { "2s" } else { "0" };
                let flags = [flags, &["--timeout", timeout]].concat();
                let mut child = place.command(command, &flags, &["say", "never"]).spawn().unwrap();
                eventually("it waits for the registry", || {
                    let ended = child.try_wait().unwrap().is_some();
                    let asked = match phase {
                        "resolve" => place.registry.connections(Server::Registry) > before,
                        _ => place.layer_was_asked_for(),
                    };
                    asked || ended
                });
                if let Some(sent) = sent {
                    signal(&child, sent);
                }
                let (status, said) = end(child);
                assert_eq!(status.code(), Some(code), "{what}: {said}");
                assert!(!said.contains("panicked"), "{what}: {said}");
                place.assert_clean(&what);
            }
        }
    }
    place.registry.faults().clear();
    let (status, said) = end(place.command("record", &[], &["say", "whole"]).spawn().unwrap());
    assert_eq!(status.code(), Some(0), "{said}");
}

#[test]
fn a_workload_that_waits_for_a_byte_of_the_registry_can_be_stopped() {
    let place = Place::new();
    for (sent, code) in ENDS {
        // The workload goes on when the registry has stopped answering.
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port().to_string();
        place.registry.faults().clear();
        let flags: &[&str] = if sent.is_none() { &["--until", "log:READY", "--timeout", "20s"] } else { &[] };
        let flags = [&["--mode", "lazy"], flags].concat();
        let words = ["say", "up", "ask", &port, "read", "/data/big", "0", "4000000", "say", "READY"];
        let mut child = place.command("run", &flags, &words).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        place.registry.faults().add(place.layer(), Fault::Hang);
        server.accept().unwrap().0.write_all(&[1]).unwrap();
        if let Some(sent) = sent {
            signal(&child, sent);
        }
        let (status, said) = end(child);
        assert_eq!(status.code(), Some(code), "{sent:?}: {said}");
        place.assert_clean(&format!("{sent:?}"));
    }
}

#[test]
fn what_a_killed_run_has_left_is_removed_by_the_next() {
    let place = Place::new();
    place.registry.faults().add(place.layer(), Fault::Stall(1000));
    let mut child = place.command("run", &["--mode", "full"], &["say", "never"]).spawn().unwrap();
    eventually("it waits for the registry", || place.layer_was_asked_for());
    child.kill().unwrap();
    child.wait().unwrap();
    let mark = place.path("tmp").to_string_lossy().into_owned();
    eventually("the snapshotter dies with it", || processes_mentioning(&mark).is_empty());
    assert_eq!(names(&place.path("tmp")).len(), 1);
    place.registry.faults().clear();
    let (status, said) = end(place.command("run", &["--mode", "full"], &["say", "whole"]).spawn().unwrap());
    assert_eq!(status.code(), Some(0), "{said}");
    place.assert_clean("after the next");
}
