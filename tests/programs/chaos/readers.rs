//! Threads that read known bytes in containers and compare each. What goes wrong, and what takes long, is remembered.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{Advice, fadvise};

use crate::world::{Container, Dice};

/// A read that took longer is remembered.
const LONG: Duration = Duration::from_millis(5);
/// Most wrong things that are remembered.
const MAX_WRONG: usize = 50;

/// What all readers have seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) reads: AtomicU64,
    pub(crate) execs: AtomicU64,
    pub(crate) wrong: Mutex<Vec<String>>,
    /// When they began, and how long they took.
    pub(crate) long: Mutex<Vec<(Instant, Duration)>>,
    pub(crate) stop: AtomicBool,
    /// Deaths so far.
    pub(crate) deaths: AtomicU64,
    /// What containers of containerd, and processes in namespaces of their own, have done.
    pub(crate) real: Real,
}

/// Counts of what is done with containers of containerd.
#[derive(Debug, Default)]
pub(crate) struct Real {
    pub(crate) pulls: AtomicU64,
    /// Programs run by `ctr tasks exec`, and those of them whose bytes nobody had read.
    pub(crate) execs: AtomicU64,
    pub(crate) first_execs: AtomicU64,
    /// Images that were removed while a container of them ran.
    pub(crate) removals: AtomicU64,
    /// Checks of all files in a container by a process in a mount namespace of its own.
    pub(crate) elsewhere: AtomicU64,
    /// The longest `ctr tasks exec`, in milliseconds.
    pub(crate) longest_exec: AtomicU64,
}

impl Seen {
    pub(crate) fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock();
        if wrong.len() < MAX_WRONG {
            wrong.push(what);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn took(&self, begun: Instant) {
        let took = begun.elapsed();
        if took >= LONG {
            self.long.lock().push((begun, took));
        }
    }

    /// Those that began or went on between two moments: when, and for how long.
    pub(crate) fn during(&self, from: Instant, to: Instant) -> Vec<(Instant, Duration)> {
        let long = self.long.lock();
        long.iter().filter(|(begun, took)| *begun <= to && *begun + *took >= from).copied().collect()
    }
}

/// Reads a part of a random file of a container.
pub(crate) fn read_once(container: &Container, dice: &mut Dice, seen: &Seen) {
    let files = &container.image.files;
    let (path, wanted) = &files[dice.below(files.len() as u64) as usize];
    let start = dice.below(wanted.len() as u64) as usize;
    let length = (1 + dice.below(200_000) as usize).min(wanted.len() - start);
    let begun = Instant::now();
    let mut read = || {
        let file = File::open(container.rootfs.join(path))?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, start as u64)?;
        if dice.below(3) == 0 {
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
        Ok::<_, std::io::Error>(bytes)
    };
    match read() {
        Ok(bytes) if bytes == wanted[start..start + length] => {}
        Ok(_) => seen.wrong(format!("wrong bytes in {path}, {length} at {start}")),
        Err(error) => seen.wrong(format!("read of {path}: {error}")),
    }
    seen.took(begun);
    seen.reads.fetch_add(1, Ordering::Relaxed);
}

/// Reads until told.
pub(crate) fn reader(container: Arc<Container>, seed: u64, seen: Arc<Seen>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut dice = Dice::new(seed);
        while !seen.is_over() {
            read_once(&container, &mut dice, &seen);
            thread::sleep(Duration::from_micros(dice.below(4000)));
        }
    })
}

/// Runs programs until told.
pub(crate) fn executor(container: Arc<Container>, seen: Arc<Seen>) -> JoinHandle<()> {
    thread::spawn(move || {
        while !seen.is_over() {
            let begun = Instant::now();
            if let Err(error) = container.exec() {
                seen.wrong(error);
            }
            seen.took(begun);
            seen.execs.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(50));
        }
    })
}
