//! Chaos: what happens to the daemon and its registry while containers read.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use harness::faults::{Fault, When};
use harness::machine::{drop_caches, mounts_mentioning, processes_mentioning};
use rustix::process::Signal;
use tokio::runtime::Runtime;
use tonic::Code;

use crate::readers::{Seen, executor, read_once, reader};
use crate::world::{Container, Dice, World};

/// Containers that read all the time.
const READERS: usize = 4;
/// How long a daemon that is there may refuse a pull, while others work.
const PULL_PATIENCE: Duration = Duration::from_mins(1);

/// Readers that have waited for a registry go on within this time.
const WELL: Duration = Duration::from_secs(4);
/// Lines of the daemon's log that are shown when something was wrong.
const LOG_LINES: usize = 60;

/// One death of the daemon.
#[derive(Debug)]
struct Death {
    kind: &'static str,
    from: Instant,
    ready: Instant,
    /// The registry has been well for a while: what readers wait for is the daemon.
    alone: bool,
}

pub(crate) fn config(way: &str) -> String {
    let erofs = way == "erofs";
    format!("[fuse]\nerofs = {erofs}\n[storage]\nkeep_unused_sec = 2\n[background_fetch]\ndisable = true\n")
}

/// Runs for so long. What was wrong.
pub(crate) fn run(length: Duration, seed: u64, way: &str) -> Vec<String> {
    let config = config(way);
    let world = Arc::new(World::new(&config));
    let runtime = Runtime::new().expect("a runtime");
    let upgraded = world.work().join("soci-snapshotter-grpc");
    fs::copy(harness::daemon::program("soci-snapshotter-grpc"), &upgraded)
        .expect("the program can be copied");
    let seen = Arc::new(Seen::default());
    let mut threads = Vec::new();
    for number in 0..READERS {
        let image = world.image(&format!("app{number}"), 3, 12, 1 << 20);
        let container =
            runtime.block_on(world.run(&image, &format!("app{number}"))).expect("the daemon serves");
        let container = Arc::new(container);
        threads.push(reader(Arc::clone(&container), seed + number as u64, Arc::clone(&seen)));
        if number == 0 {
            threads.push(executor(container, Arc::clone(&seen)));
        }
    }
    threads.push(puller(Arc::clone(&world), seed, Arc::clone(&seen)));
    let deaths = events(&world, length, seed, &config, &upgraded, &seen);
    seen.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        if thread.join().is_err() {
            seen.wrong("a thread of the test panicked".to_owned());
        }
    }
    report(&deaths, &seen, seed, way);
    if !seen.wrong.lock().is_empty() {
        let log = world.daemon.lock().log();
        let is_quiet = |line: &&str| ["\"DEBUG\"", "\"INFO\""].iter().any(|level| line.contains(level));
        let lines: Vec<_> = log.lines().filter(|line| !is_quiet(line)).collect();
        eprintln!("{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
    }
    let root = world.root.to_string_lossy().into_owned();
    drop(world);
    let (mounts, processes) = (mounts_mentioning(&root), left(&root));
    if !mounts.is_empty() || !processes.is_empty() {
        seen.wrong(format!("left behind: {mounts:?} {processes:?}"));
    }
    std::mem::take(&mut *seen.wrong.lock())
}

/// Processes that stay for longer than a dying one may.
fn left(root: &str) -> Vec<(u32, String)> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let left = processes_mentioning(root);
        if left.is_empty() || Instant::now() > end {
            return left;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn events(
    world: &World,
    length: Duration,
    seed: u64,
    config: &str,
    upgraded: &PathBuf,
    seen: &Seen,
) -> Vec<Death> {
    let mut dice = Dice::new(seed ^ 0xdead);
    let end = Instant::now() + length;
    let mut deaths = Vec::new();
    let mut well_since = Instant::now();
    while Instant::now() < end && seen.wrong.lock().is_empty() {
        thread::sleep(Duration::from_millis(50 + dice.below(1200)));
        let mut daemon = world.daemon.lock();
        let from = Instant::now();
        let gap = Duration::from_millis(if dice.below(2) == 0 { dice.below(50) } else { dice.below(2000) });
        let kind = match dice.below(100) {
            0..45 => {
                daemon.kill();
                thread::sleep(gap);
                daemon.restart(config);
                "kill"
            }
            45..65 => {
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
            65..75 => {
                if !daemon.stop(Signal::TERM).success() {
                    seen.wrong("SIGTERM: not a clean end".to_owned());
                }
                thread::sleep(gap);
                daemon.restart(config);
                "end"
            }
            75..85 => {
                let other = daemon.program() != *upgraded;
                daemon.use_program(if other {
                    upgraded.clone()
                } else {
                    harness::daemon::program("soci-snapshotter-grpc")
                });
                daemon.stop(Signal::TERM);
                daemon.restart(config);
                "upgrade"
            }
            85..93 => {
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
                drop_caches();
                continue;
            }
        };
        let alone = from.duration_since(well_since) > WELL;
        deaths.push(Death { kind, from, ready: Instant::now(), alone });
        let pid = daemon.pid();
        drop(daemon);
        stuck(&world.root.to_string_lossy(), pid, seen);
    }
    deaths
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

/// Pulls, runs, reads and removes images that nobody has read before.
fn puller(world: Arc<World>, seed: u64, seen: Arc<Seen>) -> JoinHandle<()> {
    thread::spawn(move || {
        let runtime = Runtime::new().expect("a runtime");
        let mut dice = Dice::new(seed ^ 0xbeef);
        'images: for number in 0u64.. {
            if seen.is_over() {
                return;
            }
            let image = world.image(&format!("fresh{seed}-{number}"), 2, 4, 400_000);
            let key = format!("fresh{number}");
            let begun = Instant::now();
            let container = loop {
                match runtime.block_on(world.run(&image, &key)) {
                    Ok(container) => break container,
                    // The registry has refused: for a minute the image is containerd's to pull.
                    Err(status) if status.code() == Code::Aborted => continue 'images,
                    Err(status) if begun.elapsed() > PULL_PATIENCE => {
                        seen.wrong(format!("no pull: {status}"));
                        return;
                    }
                    // The daemon is away, or the registry is bad: whoever pulls tries again.
                    Err(_) => thread::sleep(Duration::from_millis(100)),
                }
                if seen.is_over() {
                    return;
                }
            };
            read_all(&container, &mut dice, &seen);
            while !seen.is_over() && runtime.block_on(world.remove(&container)).is_err() {
                thread::sleep(Duration::from_millis(100));
            }
        }
    })
}

fn read_all(container: &Container, dice: &mut Dice, seen: &Seen) {
    for _ in 0..30 {
        read_once(container, dice, seen);
    }
    if let Err(error) = container.exec() {
        seen.wrong(error);
    }
}

/// Says what was seen: for each death, while the registry was well, how long the longest read took beyond the time without a
/// daemon.
fn report(deaths: &[Death], seen: &Seen, seed: u64, way: &str) {
    let mut beyond: Vec<_> = deaths
        .iter()
        .filter(|death| death.alone)
        .map(|death| seen.longest(death.from, death.ready).saturating_sub(death.ready - death.from))
        .collect();
    for kind in ["kill", "kill during a start", "end", "upgrade"] {
        let of_kind: Vec<_> = deaths.iter().filter(|death| death.kind == kind).collect();
        let longest = of_kind.iter().map(|death| seen.longest(death.from, death.ready)).max();
        let away = of_kind.iter().map(|death| death.ready - death.from).max();
        println!(
            "{kind}: {} times, longest read {longest:?}, longest without a daemon {away:?}",
            of_kind.len()
        );
    }
    beyond.sort_unstable();
    let at = |share: usize| {
        beyond.get(beyond.len().saturating_sub(1) * share / 100).map_or(0.0, Duration::as_secs_f64)
    };
    println!(
        "{{\"way\":\"{way}\",\"seed\":{seed},\"deaths\":{},\"reads\":{},\"execs\":{},\"wrong\":{},\
         \"beyond_restart_p50_s\":{:.3},\"beyond_restart_p99_s\":{:.3},\"beyond_restart_max_s\":{:.3}}}",
        deaths.len(),
        seen.reads.load(Ordering::Relaxed),
        seen.execs.load(Ordering::Relaxed),
        seen.wrong.lock().len(),
        at(50),
        at(99),
        at(100),
    );
}
