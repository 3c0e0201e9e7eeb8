//! Containers that containerd and runc run, when the daemon dies: programs are run in them after each death, also ones whose
//! bytes nobody has read, by both ways of mounting. Needs root, containerd, runc, /dev/fuse and Debian's busybox-static.

use std::fs;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use harness::container_lab::unique;
use harness::containerd::Containerd;
use harness::daemon::Daemon;
use harness::image::{LayerSource, TarWriter, publish};
use harness::machine::{processes_mentioning, stuck_threads};
use harness::patience::eventually;
use harness::registry::TestRegistry;
use rustix::process::{Pid, Signal, kill_process};
use soci_core::digest::Digest;
use tokio::runtime::Runtime;

/// A program without libraries.
const BUSYBOX: &str = "/bin/busybox";
/// Programs and files that are used once.
const ONCE: usize = 8;
/// Both ways of mounting.
const WAYS: [&str; 2] =
    ["[background_fetch]\ndisable = true\n", "[background_fetch]\ndisable = true\n[fuse]\nerofs = false\n"];
/// How long something may take that answers at once.
const AT_ONCE: Duration = Duration::from_secs(20);

/// A containerd whose images come from the daemon, and an image: `/bin/busybox-N` are programs, and `/sums-N` says what
/// `/data/N` should be.
struct Lab {
    // In the order in which they have to end.
    containerd: Containerd,
    daemon: Daemon,
    image: String,
    config: &'static str,
    runtime: Runtime,
    _registry: TestRegistry,
    work: tempfile::TempDir,
}

impl Lab {
    fn new(config: &'static str) -> Self {
        let busybox =
            fs::read(BUSYBOX).unwrap_or_else(|error| panic!("{BUSYBOX}: {error} (Debian: busybox-static)"));
        let (mut below, mut above) = (TarWriter::default(), TarWriter::default());
        for directory in ["bin", "data", "dev", "proc", "sys", "etc"] {
            below.entry(&format!("{directory}/"), b'5', "", b"");
        }
        below.program("bin/busybox", &busybox);
        for number in 0..ONCE {
            // What is behind the program's end nobody runs; it makes each program another one.
            above.program(&format!("bin/busybox-{number}"), &[&busybox[..], &[number as u8]].concat());
            let content: Vec<u8> = (0..100_000u32)
                .flat_map(|at| (at.wrapping_mul(2_654_435_761) >> number).to_le_bytes())
                .collect();
            let sum = format!("{}  /data/{number}\n", Digest::of(&content).hex());
            above.file(&format!("data/{number}"), &content).file(&format!("sums-{number}"), sum.as_bytes());
        }
        let registry = TestRegistry::start();
        let sources = [below.finish(), above.finish()].map(|tar| LayerSource::of_tar(&tar));
        let image = publish(&registry, "app", &sources, 256 << 10).reference;
        let work = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(work.path(), config);
        let containerd = Containerd::start(work.path(), &daemon);
        let lab = Self {
            containerd,
            daemon,
            image,
            config,
            runtime: Runtime::new().unwrap(),
            _registry: registry,
            work,
        };
        lab.runtime.block_on(lab.containerd.cri_pull(&lab.image)).unwrap();
        assert_eq!(lab.daemon.metric("soci_layers_total{way=\"lazy\"}"), 2);
        lab
    }

    /// Starts a container that waits.
    fn start(&self) -> String {
        let id = unique("death");
        let words =
            ["run", "--detach", "--snapshotter", "soci", &self.image, &id, BUSYBOX, "sleep", "100000"];
        // containerd finds out by a failed request that the daemon was replaced.
        eventually("the container runs", || {
            let ran = self.containerd.ctr(&words).status.success();
            if !ran {
                self.end(&id);
            }
            ran
        });
        id
    }

    fn end(&self, id: &str) {
        self.containerd.ctr(&["tasks", "kill", "--signal", "KILL", id]);
        eventually("the container ends", || {
            self.containerd.ctr(&["tasks", "rm", id]);
            !self.containerd.ctr_ok(&["tasks", "ls", "-q"]).contains(id)
        });
        eventually("the container is removed", || {
            self.containerd.ctr(&["containers", "rm", id]);
            !self.containerd.ctr_ok(&["containers", "ls", "-q"]).contains(id)
        });
    }

    /// Runs a program that reads a file and compares it.
    fn check(&self, id: &str, program: &str, file: usize) -> Output {
        self.containerd.exec(id, &[program, "sha256sum", "-c", &format!("/sums-{file}")])
    }

    fn assert_checks(&self, id: &str, program: &str, file: usize) {
        let output = self.check(id, program, file);
        assert!(output.status.success(), "{program} on file {file}: {output:?}");
    }

    fn holder(&self) -> Option<u32> {
        let all = processes_mentioning(self.daemon.root().to_str().unwrap());
        all.into_iter().find(|(_, line)| line.contains(" hold ")).map(|(pid, _)| pid)
    }

    fn kill_holder(&self) {
        let pid = self.holder().expect("a holder runs");
        kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL).unwrap();
        eventually("the holder is gone", || self.holder() != Some(pid));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for id in String::from_utf8_lossy(&self.containerd.ctr(&["containers", "ls", "-q"]).stdout).lines() {
            self.containerd.ctr(&["tasks", "kill", "--signal", "KILL", id]);
            eventually("a container ends", || {
                self.containerd.ctr(&["tasks", "rm", id]);
                self.containerd.ctr(&["containers", "rm", id]);
                !String::from_utf8_lossy(&self.containerd.ctr(&["tasks", "ls", "-q"]).stdout).contains(id)
            });
        }
        let stuck = stuck_threads(Duration::from_secs(5));
        assert!(thread::panicking() || stuck.is_empty(), "{stuck:?} below {}", self.work.path().display());
    }
}

#[test]
fn programs_run_in_containers_after_every_death() {
    for way in WAYS {
        let mut lab = Lab::new(way);
        let id = lab.start();
        lab.assert_checks(&id, BUSYBOX, 0);
        for (round, kind) in ["kill", "kill twice", "end", "holder, then kill"].into_iter().enumerate() {
            match kind {
                "end" => assert_eq!(lab.daemon.stop(Signal::TERM).code(), Some(0)),
                "holder, then kill" => {
                    let log = lab.daemon.log().len();
                    lab.kill_holder();
                    let is_kept = || lab.daemon.log()[log..].contains("the mounts have a keeper again");
                    eventually("another holder keeps the connection", is_kept);
                    lab.daemon.kill();
                }
                _ => lab.daemon.kill(),
            }
            // A program that nobody has read, while no daemon is there.
            thread::scope(|scope| {
                let (containerd, file) = (&lab.containerd, 2 * round);
                let id = &id;
                let waits = scope.spawn(move || {
                    let program = format!("/bin/busybox-{file}");
                    containerd.exec(id, &[&program, "sha256sum", "-c", &format!("/sums-{file}")])
                });
                // runc's process in the container becomes the program, as soon as its first page is there.
                let is_begun =
                    || processes_mentioning("runc init").iter().any(|(_, line)| line.trim() == "runc init");
                eventually("the program is begun", is_begun);
                if kind == "kill twice" {
                    lab.daemon.begin(lab.config);
                    lab.daemon.kill();
                }
                lab.daemon.restart(lab.config);
                let output = waits.join().unwrap();
                assert!(output.status.success(), "{kind}: {output:?}");
            });
            lab.assert_checks(&id, BUSYBOX, 0);
            let file = 2 * round + 1;
            lab.assert_checks(&id, &format!("/bin/busybox-{file}"), file);
        }
        let other = lab.start();
        lab.assert_checks(&other, BUSYBOX, 1);
    }
}

#[test]
fn daemon_and_holder_killed_together_are_an_error_and_healed_by_the_next_start() {
    for way in WAYS {
        let mut lab = Lab::new(way);
        let id = lab.start();
        lab.assert_checks(&id, BUSYBOX, 0);
        let holder = Pid::from_raw(lab.holder().expect("a holder runs") as i32).unwrap();
        // The holder first: nothing could start another one in time.
        kill_process(Pid::from_raw(lab.daemon.pid() as i32).unwrap(), Signal::STOP).unwrap();
        kill_process(holder, Signal::KILL).unwrap();
        lab.daemon.kill();
        let begun = Instant::now();
        let output = lab.check(&id, "/bin/busybox-1", 1);
        let took = begun.elapsed();
        assert!(!output.status.success() && took < AT_ONCE, "{output:?} after {took:?}");
        println!("who reads has an error after {took:?}");
        lab.daemon.restart(way);
        // The next start of the container is well, and the one that was broken can be ended.
        lab.end(&id);
        let next = lab.start();
        for file in 0..2 {
            lab.assert_checks(&next, &format!("/bin/busybox-{file}"), file);
        }
        eventually("it is kept", || lab.holder().is_some());
    }
}
