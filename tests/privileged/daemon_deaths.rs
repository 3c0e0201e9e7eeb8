//! The death of the daemon is not an event: who reads goes on, with the same bytes, whether the daemon is killed, ended or
//! replaced; and what is left can be taken down. Needs root, /dev/fuse and overlayfs.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use harness::machine::{mounts_mentioning, processes_mentioning};
use harness::patience::eventually;
use rustix::process::Signal;

use crate::snapshotter::{Lab, Rootfs, layers};

/// What a file of the lowest layer has, as `layers` makes it.
fn big() -> Vec<u8> {
    (0..500_000u32).flat_map(|at| (at.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()).collect()
}

/// A thread that reads a file of a container over and over, past the page cache, and compares each byte.
struct Reader {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    thread: JoinHandle<Duration>,
}

impl Reader {
    fn of(rootfs: &Rootfs) -> Self {
        let path = rootfs.0.join("usr/lib/big");
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, counted) = (Arc::clone(&stop), Arc::clone(&reads));
        let thread = thread::spawn(move || {
            let (wanted, mut longest, mut at) = (big(), Duration::ZERO, 0);
            while !told.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let file = File::open(&path).expect("the file can be opened");
                let mut bytes = vec![0; 40_000.min(wanted.len() - at)];
                file.read_exact_at(&mut bytes, at as u64).expect("the file can be read");
                assert!(bytes == wanted[at..at + bytes.len()], "wrong bytes at {at}");
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice is taken");
                longest = longest.max(begun.elapsed());
                counted.fetch_add(1, Ordering::Relaxed);
                at = (at + 40_000) % (wanted.len() - 1);
            }
            longest
        });
        Self { stop, reads, thread }
    }

    /// Waits until it has read again.
    fn goes_on(&self) {
        let before = self.reads.load(Ordering::Relaxed);
        eventually("the reader goes on", || self.reads.load(Ordering::Relaxed) > before + 1);
    }

    /// The longest that one read has taken.
    fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no read failed")
    }
}

fn nothing_hangs_in(root: &Path) {
    for (pid, line) in processes_mentioning(root.to_str().unwrap()) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        assert!(!status.contains("State:\tD"), "{line}");
    }
}

/// Both ways of mounting, by configuration.
const WAYS: [&str; 2] = ["", "[fuse]\nerofs = false\n"];

#[test]
fn readers_go_on_when_the_daemon_is_killed() {
    for way in WAYS {
        let mut lab = Lab::new(&layers(), way, |_| {});
        let (_, top) = lab.pull();
        let container = lab.container("a", &top);
        let reader = Reader::of(&container);
        for round in 0..6 {
            reader.goes_on();
            lab.daemon.kill();
            if round % 2 == 0 {
                // Somebody reads meanwhile.
                thread::sleep(Duration::from_millis(50));
            }
            lab.daemon.restart(way);
            lab.assert_served(&container);
            lab.assert_served(&lab.container(&format!("b{round}"), &top));
        }
        reader.goes_on();
        let longest = reader.end();
        println!("longest read: {longest:?}");
        assert_eq!(lab.daemon.mounts().len(), 3, "nothing was mounted again");
        assert_eq!(lab.daemon.metric("soci_layer_failures_total{way=\"restore\"}"), 0);
        nothing_hangs_in(&lab.daemon.root());
    }
}

#[test]
fn an_end_leaves_everything_mounted_and_a_start_goes_on() {
    for way in WAYS {
        let mut lab = Lab::new(&layers(), way, |_| {});
        let (_, top) = lab.pull();
        let containers: Vec<_> = (0..20).map(|number| lab.container(&number.to_string(), &top)).collect();
        let readers: Vec<_> = containers.iter().take(3).map(Reader::of).collect();
        readers[0].goes_on();
        let begun = Instant::now();
        assert_eq!(lab.daemon.stop(Signal::TERM).code(), Some(0));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        lab.daemon.restart(way);
        readers.iter().for_each(Reader::goes_on);
        for reader in readers {
            reader.end();
        }
        lab.assert_served(&containers[19]);
    }
}

#[test]
fn a_layer_that_nobody_has_read_is_read_after_a_death() {
    for way in WAYS {
        let config = format!("[background_fetch]\ndisable = true\n{way}");
        let mut lab = Lab::new(&layers(), &config, |_| {});
        let (_, top) = lab.pull();
        let container = lab.container("a", &top);
        lab.daemon.kill();
        // It waits for the next daemon.
        let path = container.0.join("usr/lib/big");
        let reader = thread::spawn(move || fs::read(path));
        lab.daemon.restart(&config);
        assert!(reader.join().unwrap().expect("the file can be read") == big());
    }
}

#[test]
fn what_a_daemon_leaves_can_be_taken_down() {
    let mut lab = Lab::new(&layers(), "", |_| {});
    let (_, top) = lab.pull();
    let container = lab.container("a", &top);
    let refused = lab.daemon.unmount(&[]).unwrap_err();
    assert!(refused.contains("stop it first"), "{refused}");
    let refused = lab.daemon.unmount(&["--force"]).unwrap_err();
    assert!(refused.contains("stop it first"), "{refused}");
    lab.daemon.stop(Signal::TERM);
    let root = lab.daemon.root();
    let name = root.to_str().unwrap();
    let refused = lab.daemon.unmount(&[]).unwrap_err();
    assert!(refused.contains(container.0.to_str().unwrap()) && refused.contains("--force"), "{refused}");
    assert_eq!(lab.daemon.mounts().len(), 3);
    drop(container);
    let said = lab.daemon.unmount(&[]).unwrap();
    assert!(said.starts_with("4 mounts taken down"), "{said}");
    assert_eq!(mounts_mentioning(name), Vec::<String>::new());
    eventually("the holder ends", || processes_mentioning(name).is_empty());
    // The next daemon mounts what is wanted.
    lab.daemon.restart("");
    assert_eq!(lab.daemon.mounts(), Vec::<PathBuf>::new());
    lab.assert_served(&lab.container("b", &top));
}

#[test]
fn one_root_has_one_daemon() {
    let lab = Lab::new(&layers(), "", |_| {});
    lab.pull();
    let second = std::process::Command::new(harness::daemon::program("soci-snapshotter-grpc"))
        .arg("--root")
        .arg(lab.daemon.root())
        .arg("--address")
        .arg(lab.daemon.root().join("other.sock"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    let reason = format!("process {} serves this root directory", lab.daemon.pid());
    assert!(!second.status.success() && said.contains(&reason), "{said}");
    lab.pull();
}

#[test]
fn readers_get_errors_when_nobody_comes_back_and_the_next_daemon_heals() {
    const SOON: &str = "[restart]\nabort_after_sec = 1\n[background_fetch]\ndisable = true\n";
    let mut lab = Lab::new(&layers(), SOON, |_| {});
    let (_, top) = lab.pull();
    let container = lab.container("a", &top);
    lab.daemon.kill();
    let path = container.0.join("usr/lib/big");
    let begun = Instant::now();
    let failed = fs::read(&path).unwrap_err();
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{failed} after {took:?}");
    lab.daemon.restart(SOON);
    drop(container);
    lab.assert_served(&lab.container("b", &top));
}

#[test]
fn a_holder_that_was_killed_is_replaced() {
    let mut lab = Lab::new(&layers(), "", |_| {});
    let (_, top) = lab.pull();
    let container = lab.container("a", &top);
    let holder = || {
        let all = processes_mentioning(lab.daemon.root().to_str().unwrap());
        all.into_iter().find(|(_, line)| line.contains(" hold ")).map(|(pid, _)| pid)
    };
    let first = holder().expect("a holder runs");
    let pid = rustix::process::Pid::from_raw(first as i32).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    eventually("there is another holder", || holder().is_some_and(|pid| pid != first));
    let log = || lab.daemon.log();
    eventually("it keeps the connection", || log().contains("the mounts have a keeper again"));
    lab.daemon.kill();
    lab.daemon.restart("");
    lab.assert_served(&container);
}

#[test]
fn who_keeps_nothing_ends_what_was_kept() {
    let mut lab = Lab::new(&layers(), "", |_| {});
    let (_, top) = lab.pull();
    let container = lab.container("a", &top);
    lab.daemon.kill();
    lab.daemon.restart("[restart]\nkeep_mounts = false\n");
    // Nobody is to wait for what no daemon serves any more.
    fs::read(container.0.join("usr/lib/big")).unwrap_err();
    let name = lab.daemon.root().to_str().unwrap().to_owned();
    eventually("the holder ends", || {
        processes_mentioning(&name).iter().all(|(_, line)| !line.contains(" hold "))
    });
    lab.assert_served(&lab.container("b", &top));
}
