//! One run of chaos: who reads, who pulls, what happens meanwhile, what is left, what was seen.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use harness::machine::{mounts_mentioning, processes_mentioning, stuck_threads};
use tokio::runtime::Runtime;

use crate::elsewhere::elsewhere;
use crate::events::{Death, KINDS, events};
use crate::puller::puller;
use crate::readers::{Seen, executor, reader};
use crate::real::Runtime as Containers;
use crate::world::World;

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Here, with containers of a containerd.
    Containerd,
    /// Here; containers are mounts of the test.
    Bare,
    /// The same in a virtual machine without KVM: everything is small.
    Guest,
}

impl Place {
    /// Containers that are read all the time; files in each of their layers, and bytes of the largest.
    const fn size(self) -> (usize, usize, u64) {
        match self {
            Self::Containerd | Self::Bare => (4, 12, 1 << 20),
            Self::Guest => (2, 4, 100_000),
        }
    }
}

/// Lines of the daemon's log that are shown when something was wrong.
const LOG_LINES: usize = 60;
/// A thread that no signal reaches for so long does not end by itself.
const STUCK: Duration = Duration::from_secs(5);

pub(crate) fn config(way: &str) -> String {
    let erofs = way == "erofs";
    format!("[fuse]\nerofs = {erofs}\n[storage]\nkeep_unused_sec = 2\n[background_fetch]\ndisable = true\n")
}

/// Runs for so long. What was wrong.
pub(crate) fn run(length: Duration, seed: u64, way: &str, place: Place) -> Vec<String> {
    let config = config(way);
    let world = Arc::new(World::new(&config));
    let runtime = Runtime::new().expect("a runtime");
    let seen = Arc::new(Seen::default());
    let mut threads = Vec::new();
    let real = (place == Place::Containerd).then(|| Arc::new(Containers::start(&world)));
    let (readers, files, largest) = place.size();
    for number in 0..readers {
        let name = format!("app{number}");
        let image = world.image(&name, 3, files, largest);
        let container = match &real {
            Some(real) => real.container(image, &name, &seen),
            None => runtime.block_on(world.run(&image, &name)).expect("the daemon serves"),
        };
        let container = Arc::new(container);
        if number == 1 {
            threads.push(elsewhere(Arc::clone(&container), Arc::clone(&seen)));
        }
        threads.push(reader(Arc::clone(&container), seed + number as u64, Arc::clone(&seen)));
        if number == 0 {
            threads.push(executor(container, Arc::clone(&seen)));
        }
    }
    match &real {
        Some(real) => threads.extend(real.threads(&world, seed, &seen)),
        // containerd removes every snapshot that it does not know.
        None => threads.push(puller(Arc::clone(&world), seed, Arc::clone(&seen))),
    }
    let deaths = events(&world, length, seed, &config, &seen);
    seen.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        if thread.join().is_err() {
            seen.wrong("a thread of the test panicked".to_owned());
        }
    }
    if let Some(real) = &real {
        real.look_back(&seen);
    }
    let stuck = stuck_threads(STUCK);
    if !stuck.is_empty() {
        seen.wrong(format!("threads that no signal reaches: {stuck:?}"));
    }
    report(&deaths, &seen, seed, way);
    if !seen.wrong.lock().is_empty() {
        let log = world.daemon.lock().log();
        let is_quiet = |line: &&str| ["\"DEBUG\"", "\"INFO\""].iter().any(|level| line.contains(level));
        let lines: Vec<_> = log.lines().filter(|line| !is_quiet(line)).collect();
        eprintln!("{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
    }
    drop(real);
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

/// Says what was seen: for each death, while the registry was well, how much longer the longest read took than there was no
/// daemon for it.
fn report(deaths: &[Death], seen: &Seen, seed: u64, way: &str) {
    // A read may have waited for several daemons, one after the other.
    let beyond = |(begun, took): &(Instant, Duration)| {
        let without = deaths
            .iter()
            .map(|death| death.ready.min(*begun + *took).saturating_duration_since(death.from.max(*begun)));
        took.saturating_sub(without.sum())
    };
    let longest = |death: &Death, of: &dyn Fn(&(Instant, Duration)) -> Duration| {
        seen.during(death.from, death.ready).iter().map(of).max().unwrap_or_default()
    };
    for kind in KINDS {
        let of_kind: Vec<_> = deaths.iter().filter(|death| death.kind == kind).collect();
        let read = of_kind.iter().map(|death| longest(death, &|(_, took)| *took)).max();
        let away = of_kind.iter().map(|death| death.ready - death.from).max();
        println!("{kind}: {} times, longest read {read:?}, longest without a daemon {away:?}", of_kind.len());
    }
    let mut beyond: Vec<_> =
        deaths.iter().filter(|death| death.alone).map(|death| longest(death, &beyond)).collect();
    beyond.sort_unstable();
    let real = &seen.real;
    let count = |of: &std::sync::atomic::AtomicU64| of.load(Ordering::Relaxed);
    println!(
        "{{\"pulls_by_containerd\":{},\"execs_by_ctr\":{},\"of_programs_never_read\":{},\"longest_exec_s\":{:.3},\
         \"images_removed_in_use\":{},\"checks_in_other_namespaces\":{}}}",
        count(&real.pulls),
        count(&real.execs),
        count(&real.first_execs),
        count(&real.longest_exec) as f64 / 1000.0,
        count(&real.removals),
        count(&real.elsewhere),
    );
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
