//! What happens to the daemon, its registry and its disk while containers read.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use harness::daemon::{Daemon, program};
use harness::faults::{Fault, When};
use harness::machine::{forget_caches, processes_mentioning};
use rustix::process::Signal;

use crate::readers::Seen;
use crate::world::{Dice, World};

/// Readers that have waited for a registry go on within this time.
const WELL: Duration = Duration::from_secs(4);
/// How long the containers on a successor's layers may take to end before the earlier build comes back.
const QUIET: Duration = Duration::from_secs(20);

/// Deaths in a run, however slow the machine: a guest without KVM needs half a minute for each.
const LEAST: usize = 6;

/// The kinds of [`Death`].
pub(crate) const KINDS: [&str; 6] =
    ["kill", "kill during a start", "kill on a full disk", "end", "upgrade", "way back"];

/// One death of the daemon.
#[derive(Debug)]
pub(crate) struct Death {
    pub(crate) kind: &'static str,
    pub(crate) from: Instant,
    pub(crate) ready: Instant,
    /// The registry has been well for a while: what readers wait for is the daemon.
    pub(crate) alone: bool,
}

/// The two builds of the daemon.
pub(crate) fn builds() -> [PathBuf; 2] {
    ["soci-snapshotter-grpc", "soci-snapshotter-grpc-successor"].map(program)
}

/// Lets things happen for so long, and some deaths at least, or until something is wrong.
pub(crate) fn events(world: &World, length: Duration, seed: u64, config: &str, seen: &Seen) -> Vec<Death> {
    let mut dice = Dice::new(seed ^ 0xdead);
    let end = Instant::now() + length;
    let mut deaths = Vec::new();
    let mut well_since = Instant::now();
    while (Instant::now() < end || deaths.len() < LEAST) && seen.wrong.lock().is_empty() {
        thread::sleep(Duration::from_millis(50 + dice.below(1200)));
        let what = dice.below(100);
        // The way back is for when nobody needs the successor; waiting for that is not a time without a daemon.
        let goes_back = (65..75).contains(&what) && *world.daemon.lock().program() != builds()[0];
        let quiet = goes_back.then(|| world.of_successor.try_write_for(QUIET)).flatten();
        let mut daemon = world.daemon.lock();
        let mut from = Instant::now();
        let mut ready = None;
        let gap = Duration::from_millis(if dice.below(2) == 0 { dice.below(50) } else { dice.below(2000) });
        let kind = match what {
            0..40 => {
                daemon.kill();
                thread::sleep(gap);
                daemon.restart(config);
                "kill"
            }
            40..57 => {
                // Again, while it takes over.
                daemon.kill();
                for _ in 0..=dice.below(3) {
                    daemon.begin(config);
                    thread::sleep(Duration::from_millis(dice.below(100)));
                    daemon.kill();
                }
                daemon.restart(config);
                "kill during a start"
            }
            57..65 => {
                if !daemon.stop(Signal::TERM).success() {
                    seen.wrong("SIGTERM: not a clean end".to_owned());
                }
                thread::sleep(gap);
                daemon.restart(config);
                "end"
            }
            65..75 => change_build(&mut daemon, config, quiet.is_some()),
            75..82 => {
                let without = full_disk(world, &mut daemon, &mut dice, config);
                (from, ready) = (without.0, Some(without.1));
                "kill on a full disk"
            }
            82..92 => {
                let fault = match dice.below(3) {
                    0 => Fault::Status(503, None),
                    1 => Fault::Status(401, None),
                    _ => Fault::Hang,
                };
                world.registry.faults().add(When::path("/blobs/"), fault);
                drop(daemon);
                thread::sleep(Duration::from_millis(200 + dice.below(2500)));
                world.registry.faults().clear();
                well_since = Instant::now();
                continue;
            }
            _ => {
                drop(daemon);
                forget_caches();
                continue;
            }
        };
        seen.deaths.fetch_add(1, Ordering::Relaxed);
        let alone = from.duration_since(well_since) > WELL;
        let ready = ready.unwrap_or_else(Instant::now);
        deaths.push(Death { kind, from, ready, alone });
        let pid = daemon.pid();
        drop(daemon);
        drop(quiet);
        stuck(&world.root.to_string_lossy(), pid, seen);
    }
    deaths
}

/// To the other build, if it can serve all that is used.
fn change_build(daemon: &mut Daemon, config: &str, quiet: bool) -> &'static str {
    let [ours, successor] = builds();
    let is_ours = daemon.program() == ours;
    daemon.stop(Signal::TERM);
    let (next, kind) = match (is_ours, quiet) {
        (true, _) => (successor, "upgrade"),
        (false, true) => (ours, "way back"),
        (false, false) => (successor, "end"),
    };
    daemon.use_program(next);
    daemon.restart(config);
    kind
}

/// Nobody can write for a while; in the middle of it the daemon is killed. From when to when there is none.
fn full_disk(world: &World, daemon: &mut Daemon, dice: &mut Dice, config: &str) -> (Instant, Instant) {
    let full = world.disk.fill();
    thread::sleep(Duration::from_millis(dice.below(1500)));
    let from = Instant::now();
    daemon.kill();
    daemon.restart(config);
    let ready = Instant::now();
    thread::sleep(Duration::from_millis(dice.below(1500)));
    drop(full);
    (from, ready)
}

/// Looks for processes of earlier daemons that cannot end.
fn stuck(root: &str, pid: u32, seen: &Seen) {
    let old = || {
        let all = processes_mentioning(root).into_iter();
        let serving = all.filter(|(other, line)| *other != pid && line.contains("--address"));
        serving.map(|(pid, _)| pid).collect::<Vec<_>>()
    };
    let end = Instant::now() + Duration::from_secs(5);
    while !old().is_empty() {
        if Instant::now() > end {
            return seen.wrong(format!("daemons that do not die: {:?}", old()));
        }
        thread::sleep(Duration::from_millis(20));
    }
}
