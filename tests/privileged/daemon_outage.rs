//! Reads of lazy files while a registry is away, refuses, or answers wrongly: they wait, and none fails. Needs root, /dev/fuse and
//! overlayfs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use harness::door::Door;
use harness::faults::{Fault, When};
use harness::patience::eventually;
use harness::registry::{AuthMode, Habits, TestRegistry};
use harness::site::{Image, PAGE, Pages, Site, words};

/// Bytes of the file of an image, and how far apart its reads are.
const FILE: usize = 32 << 20;
const STRIDE: u64 = 64 << 10;
const READS: u64 = FILE as u64 / STRIDE;
const READERS: u64 = 10;
const CONFIG: &str = "[background_fetch]\ndisable = true\n";

/// How long errors last that heal, and how long a registry is away.
const ERRORS: Duration = Duration::from_secs(12);
const OUTAGE: Duration = Duration::from_mins(1);

/// Readers of all of an image's file, a page of each span, all over it.
struct Crowd {
    name: &'static str,
    done: Arc<AtomicUsize>,
    readers: Vec<JoinHandle<(usize, Duration)>>,
}

impl Crowd {
    fn of(name: &'static str, root: &Path, content: &Arc<Vec<u8>>) -> Self {
        let done = Arc::new(AtomicUsize::new(0));
        let reader = |number: u64| {
            let (path, content, done): (PathBuf, _, _) =
                (root.join("f"), Arc::clone(content), Arc::clone(&done));
            thread::spawn(move || {
                let pages = Pages::of(&path);
                let (mut failed, mut longest) = (0, Duration::ZERO);
                for turn in 0..READS / READERS {
                    // Odd numbers reach every place of the file, in an order that is nobody's habit.
                    let at = (turn * READERS + number) * 211 % READS * STRIDE;
                    match pages.read(at) {
                        Ok((page, took)) => {
                            assert!(
                                page == content[at as usize..(at + PAGE) as usize],
                                "{name}: wrong at {at}"
                            );
                            longest = longest.max(took);
                        }
                        Err(error) => {
                            eprintln!("{name} at {at}: {error}");
                            failed += 1;
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                (failed, longest)
            })
        };
        Self { name, readers: (0..READERS).map(reader).collect(), done }
    }

    fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Reads, those that failed, and the longest.
    fn end(self) -> (usize, usize, Duration) {
        let outcomes: Vec<_> =
            self.readers.into_iter().map(|reader| reader.join().expect("no wrong byte")).collect();
        let failed = outcomes.iter().map(|outcome| outcome.0).sum();
        let longest = outcomes.iter().map(|outcome| outcome.1).max().unwrap_or_default();
        println!(
            "{}: {} reads, {failed} failed, the longest took {longest:?}",
            self.name,
            self.done.load(Ordering::Relaxed)
        );
        (self.done.load(Ordering::Relaxed), failed, longest)
    }
}

/// Credentials of the test registry's user for a host.
fn credentials(host: &str) -> String {
    format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"c29tZW9uZTpzM2NyZXQ6d2l0aDpjb2xvbnM=\"}}}}}}")
}

#[test]
fn reads_wait_for_registries_that_heal_and_for_those_that_come_back() {
    let faults = [
        ("401", Fault::Status(401, None)),
        ("403", Fault::Status(403, None)),
        ("404", Fault::Status(404, None)),
        ("wrong bytes", Fault::Corrupt),
        ("broken credentials", Fault::Status(401, None)),
    ];
    let registries: Vec<_> = (0..faults.len() + 2)
        .map(|number| {
            let auth = if number == 4 { AuthMode::Basic } else { AuthMode::Open };
            TestRegistry::with(Habits { auth, ..Habits::default() })
        })
        .collect();
    let site = Site::new(CONFIG);
    std::fs::write(site.daemon.credentials(), credentials(&registries[4].host())).unwrap();
    let mut door = Door::to(&registries[5].host());
    let mut crowds = Vec::new();
    let mut starts = Vec::new();
    for (number, registry) in registries.iter().enumerate() {
        let content = Arc::new(words(FILE, 10 + number as u64));
        let (mut image, _) = Image::new(registry, "a", &[("f", &content)], STRIDE);
        if number == 5 {
            image.published.reference = format!("{}/a:latest", door.host());
        }
        let root = site.start(&number.to_string(), &image);
        // It was served before.
        Pages::of(&root.join("f")).read(0).unwrap();
        starts.push((image, root, content));
    }
    let begun = Instant::now();
    for (number, (_, fault)) in faults.iter().enumerate() {
        registries[number].faults().add(When::path(starts[number].0.layer()), fault.clone());
    }
    std::fs::write(site.daemon.credentials(), "{\"auths\": {").unwrap();
    door.close();
    registries[6].faults().add(When::always(), Fault::Hang);
    let names = faults.iter().map(|fault| fault.0).chain(["refused", "silent"]);
    for (name, (_, root, content)) in names.zip(&starts) {
        crowds.push(Crowd::of(name, root, content));
    }
    thread::sleep(ERRORS.saturating_sub(begun.elapsed()));
    let early: Vec<_> = crowds.iter().map(Crowd::done).collect();
    for registry in &registries[..faults.len()] {
        registry.faults().clear();
    }
    std::fs::write(site.daemon.credentials(), credentials(&registries[4].host())).unwrap();
    assert!(early.iter().all(|done| *done < READS as usize / 2), "they read what was there: {early:?}");
    let away = crowds.split_off(faults.len());
    let (mut reads, mut failed) = (0, 0);
    for crowd in crowds {
        let (done, not, _) = crowd.end();
        (reads, failed) = (reads + done, failed + not);
    }
    println!("{reads} reads, {failed} failed, with errors for {ERRORS:?}");
    thread::sleep(OUTAGE.saturating_sub(begun.elapsed()));
    door.open();
    registries[6].faults().clear();
    let back = Instant::now();
    eventually("they go on", || away.iter().all(|crowd| crowd.done() >= READERS as usize * 3));
    println!("all readers go on {:?} after an outage of {OUTAGE:?}", back.elapsed());
    let failed_away: usize = away.into_iter().map(|crowd| crowd.end().1).sum();
    assert!(
        reads >= 2500 && failed == 0 && failed_away == 0,
        "{failed} of {reads}, {failed_away} of those away"
    );
    assert!(site.daemon.metric("soci_reads_retried_total") > 0);
    assert_eq!(site.daemon.metric("soci_read_failures_total"), 0);
}

/// Numbers by chance, the same each time.
fn dice(state: &mut u64, below: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 33) % below
}

#[test]
fn no_read_takes_five_seconds_while_the_registry_answers_others() {
    let content = Arc::new(words(FILE, 2));
    let registry = TestRegistry::start();
    let (image, _) = Image::new(&registry, "a", &[("f", &content)], STRIDE);
    let site = Site::new(CONFIG);
    let root = site.start("a", &image);
    // How slow the machine is, of which others may use most.
    let other = Arc::new(words(FILE, 3));
    let (well, _) = Image::new(&registry, "well", &[("f", &other)], STRIDE);
    let slow = Crowd::of("nothing stalls", &site.start("well", &well), &other).end().2;
    let of_layer = || When::path(image.layer());
    let (mut state, mut bad) = (9, 0);
    for _ in 0..2 * READS {
        let fault = match dice(&mut state, 32) {
            0..4 => Fault::Hang,
            4..6 => Fault::Stall(0),
            6..8 => Fault::Stall(dice(&mut state, STRIDE) as usize),
            8 => Fault::Drip(500),
            _ => Fault::Latency(Duration::ZERO),
        };
        bad += u32::from(!matches!(fault, Fault::Latency(_)));
        registry.faults().add_times(of_layer(), fault, 1);
    }
    let (done, failed, longest) = Crowd::of("stalls", &root, &content).end();
    println!("{bad} of {} requests were to stall; {} were made", 2 * READS, registry.requests().len());
    assert!(done == (READS / READERS * READERS) as usize && failed == 0);
    assert!(longest < Duration::from_secs(5) + 10 * slow, "{longest:?}, and {slow:?} where nothing stalls");
}
