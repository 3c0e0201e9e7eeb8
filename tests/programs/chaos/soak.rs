//! Soak: pull, run, read and remove, over and over. What grows is told.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use harness::machine::mounts_mentioning;
use tokio::runtime::Runtime;

use crate::readers::{Seen, read_once};
use crate::run::config;
use crate::world::{Dice, World};

/// Images that are used in turn.
const IMAGES: u64 = 4;
/// How long what was removed may stay on disk: twice what the configuration says, and some.
const GIVEN_BACK: Duration = Duration::from_secs(30);
/// Share of the first cycles that is not compared: pools and caches fill.
const WARM: usize = 4;

/// What a daemon has.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// KiB.
    memory: u64,
    descriptors: u64,
    threads: u64,
    mounts: u64,
}

/// Runs so many cycles. What was wrong.
pub(crate) fn run(cycles: u64, way: &str) -> Vec<String> {
    let world = World::new(&config(way));
    let runtime = Runtime::new().expect("a runtime");
    let seen = Seen::default();
    let mut dice = Dice::new(cycles);
    let images: Vec<_> =
        (0..IMAGES).map(|number| world.image(&format!("soak{number}"), 3, 8, 600_000)).collect();
    let mut sizes = Vec::new();
    for cycle in 0..cycles {
        let image = &images[(cycle % IMAGES) as usize];
        let key = format!("cycle{cycle}");
        match runtime.block_on(world.run(image, &key)) {
            Ok(container) => {
                for _ in 0..40 {
                    read_once(&container, &mut dice, &seen);
                }
                if let Err(error) = container.exec() {
                    seen.wrong(error);
                }
                if let Err(status) = runtime.block_on(world.remove(&container)) {
                    seen.wrong(format!("cycle {cycle}: remove: {status}"));
                }
            }
            Err(status) => seen.wrong(format!("cycle {cycle}: {status}")),
        }
        sizes.push(size(&world));
    }
    let disk = given_back(&world, &seen);
    let warm = sizes.len() / WARM;
    let (first, last) = (sizes[warm], sizes[sizes.len() - 1]);
    let late = &sizes[warm..];
    for (what, of, allowed) in [
        ("threads", (|size| size.threads) as fn(&Size) -> u64, 4),
        ("descriptors", |size| size.descriptors, 8),
        ("mounts", |size| size.mounts, 0),
        ("memory", |size| size.memory, 24 << 10),
    ] {
        let half = late.len() / 2;
        let most = |part: &[Size]| part.iter().map(of).max().unwrap_or(0);
        let (early, later) = (most(&late[..half.max(1)]), most(&late[half..]));
        if later > early + allowed {
            seen.wrong(format!("{what} grow: {early}, then {later}"));
        }
    }
    println!(
        "{{\"way\":\"{way}\",\"cycles\":{cycles},\"wrong\":{},\"memory_kib\":[{},{}],\"descriptors\":[{},{}],\"threads\":[{},{}],\
         \"mounts\":[{},{}],\"disk_left_bytes\":{disk}}}",
        seen.wrong.lock().len(),
        first.memory,
        last.memory,
        first.descriptors,
        last.descriptors,
        first.threads,
        last.threads,
        first.mounts,
        last.mounts,
    );
    std::mem::take(&mut *seen.wrong.lock())
}

fn size(world: &World) -> Size {
    let pid = world.daemon.lock().pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as u64;
    let mounts = mounts_mentioning(&world.root.to_string_lossy()).len() as u64;
    Size { memory: of("VmRSS:"), descriptors, threads: of("Threads:"), mounts }
}

/// Waits until what was removed is off the disk. The bytes that stay.
fn given_back(world: &World, seen: &Seen) -> u64 {
    let of = || ["cache", "content/blobs"].iter().map(|part| bytes(&world.root.join(part))).sum::<u64>();
    let end = Instant::now() + GIVEN_BACK;
    while of() > 0 {
        if Instant::now() > end {
            seen.wrong(format!("{} bytes stay on disk", of()));
            break;
        }
        thread::sleep(Duration::from_millis(200));
    }
    of()
}

fn bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}
