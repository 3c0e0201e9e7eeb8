//! What one image's registry and readers do to another image on the same daemon: reads of files and packs of image B alone, and
//! beside an image A whose registry is dead, whose bodies stand still, or whose reader never stops. Needs root, /dev/fuse and
//! overlayfs.
//!
//! Times are compared within one run, state by state in turn, so that a machine that others use is slow for all alike.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use harness::companions::{PackParts, REPOSITORY};
use harness::disk_image::half_random;
use harness::faults::{Fault, When};
use harness::patience::eventually;
use harness::registry::TestRegistry;
use harness::site::{Image, Pages, Site, median, words};
use soci_core::units::ByteRange;

/// How often each state is measured, and with how many reads each time.
const ROUNDS: usize = 3;
const READS: usize = 14;
/// How much longer something may take beside A. The figures are printed, and are below 1.5 on a machine that is not used by others;
/// what is not fair takes many times as long.
const MOST: f64 = 3.0;
/// The way to B's registry: time to the first byte, and bytes a second of a pack.
const ROUND_TRIP: Duration = Duration::from_millis(20);
const PACK_RATE: u64 = 3 << 20;
/// A's bytes a second for each connection: its reader streams during all of a measurement.
const STREAM_RATE: u64 = 16 << 20;

const MIB: usize = 1 << 20;
/// Bytes between two reads of the same file: more than what comes along with one.
const STRIDE: u64 = 256 << 10;
/// Readers of A: more than a registry may have requests out.
const READERS: u64 = 80;

const CONFIG: &str = "[pull_modes.soci_v1]\nenable = true\n[background_fetch]\ndisable = true\n";

/// What A does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Alone,
    Dead,
    Stalled,
    Streaming,
}

const STATES: [State; 4] = [State::Alone, State::Dead, State::Stalled, State::Streaming];

struct Scene {
    site: Site,
    theirs: Option<TestRegistry>,
    ours: TestRegistry,
    a: Image,
    b: Image,
    /// Where A and B are mounted.
    roots: [PathBuf; 2],
    /// The next page of A that nobody has read, and the next byte of its stream.
    next_page: u64,
    streamed: Arc<AtomicU64>,
}

/// A's readers at work.
struct Busy {
    over: Arc<AtomicBool>,
    readers: Vec<JoinHandle<()>>,
}

impl Scene {
    /// A and B on two registries, or on one.
    fn new(on_one: bool) -> Self {
        let ours = TestRegistry::start();
        let theirs = (!on_one).then(TestRegistry::start);
        let (few, stream) = (words(48 * MIB, 1), words(64 * MIB, 2));
        let files: [(&str, &[u8]); 2] = [("few", &few), ("stream", &stream)];
        let (a, _) = Image::new(theirs.as_ref().unwrap_or(&ours), "a", &files, 64 << 10);
        let (b, _) = Image::new(&ours, "b", &[("few", &words(48 * MIB, 3))], 64 << 10);
        let site = Site::new(CONFIG);
        let roots = [site.start("a", &a), site.start("b", &b)];
        let scene = Self { site, theirs, ours, a, b, roots, next_page: 0, streamed: Arc::default() };
        scene.faults(State::Alone);
        scene
    }

    fn theirs(&self) -> &TestRegistry {
        self.theirs.as_ref().unwrap_or(&self.ours)
    }

    fn faults(&self, state: State) {
        self.theirs().faults().clear();
        self.ours.faults().clear();
        self.ours.faults().add(When::path(self.b.layer()), Fault::Latency(ROUND_TRIP));
        let fault = match state {
            State::Alone => return,
            State::Dead => Fault::Hang,
            State::Stalled => Fault::Stall(0),
            State::Streaming => Fault::Throttle(STREAM_RATE),
        };
        self.theirs().faults().add(When::path(self.a.layer()), fault);
    }

    /// Brings A into a state.
    fn begin(&mut self, state: State) -> Busy {
        self.faults(state);
        let over = Arc::new(AtomicBool::new(false));
        let mut readers = Vec::new();
        let asked = |scene: &Self| {
            let of_a = scene.a.layer();
            scene.theirs().requests().iter().filter(|request| request.path.contains(&of_a)).count()
        };
        let before = asked(self);
        let count = match state {
            State::Alone => 0,
            State::Dead => READERS,
            State::Stalled => 8,
            State::Streaming => {
                let (over, streamed) = (Arc::clone(&over), Arc::clone(&self.streamed));
                let path = self.roots[0].join("stream");
                readers.push(thread::spawn(move || stream(&path, &over, &streamed)));
                let from = self.streamed.load(Ordering::Relaxed);
                eventually("A streams", || self.streamed.load(Ordering::Relaxed) > from + MIB as u64);
                0
            }
        };
        // Behind what was fetched ahead of the readers before.
        self.next_page += if count > 0 { 2 * MIB as u64 } else { 0 };
        for _ in 0..count {
            let (at, path) = (self.next_page, self.roots[0].join("few"));
            self.next_page += STRIDE / 2;
            readers.push(thread::spawn(move || drop(Pages::of(&path).read(at).expect("it heals"))));
        }
        let least = before + (count as usize / 2).min(48);
        eventually("A's requests are out", || asked(self) >= least);
        Busy { over, readers }
    }

    /// Lets A's readers end. Nearly all of them must not have ended before: some page may have come along with another one.
    fn end(&self, state: State, busy: Busy) {
        let early = busy.readers.iter().filter(|reader| reader.is_finished()).count();
        assert!(early * 8 <= busy.readers.len(), "{state:?}: {early} of A's readers have ended too early");
        busy.over.store(true, Ordering::Relaxed);
        self.faults(State::Alone);
        busy.readers.into_iter().for_each(|reader| reader.join().expect("no read fails"));
    }

    /// An image whose pack brings a file, and the pack.
    fn packed(&self, seed: u64) -> (Image, PackParts) {
        let content = half_random(2 * MIB, seed);
        let (image, tar) = Image::new(&self.ours, REPOSITORY, &[("all", &content)], 256 << 10);
        let needs = [(0, ByteRange::new(0, tar.len() as u64))];
        let pack = PackParts::of_needs(&image.published, &[tar], &needs);
        pack.put(&self.ours);
        (image, pack)
    }

    /// From the first Prepare of an image until its pack is here.
    fn pack_time(&self, (image, pack): &(Image, PackParts)) -> Duration {
        let blob = When::path(soci_core::digest::Digest::of(&pack.blob).to_string());
        self.ours.faults().add(blob, Fault::Throttle(PACK_RATE));
        let before = self.site.daemon.metric("soci_packs_total");
        let begun = Instant::now();
        self.site.pull(image);
        eventually("the pack is here", || self.site.daemon.metric("soci_packs_total") > before);
        begun.elapsed()
    }
}

/// Reads a file on and on, from where it was read to.
fn stream(path: &std::path::Path, over: &AtomicBool, streamed: &AtomicU64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path).expect("the file can be opened");
    let mut piece = vec![0; 128 << 10];
    while !over.load(Ordering::Relaxed) {
        let at = streamed.load(Ordering::Relaxed);
        file.read_exact_at(&mut piece, at).expect("the stream does not end in a measurement");
        streamed.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
}

fn is_fair(on_one: bool) {
    let mut scene = Scene::new(on_one);
    let packs: Vec<_> = (0..ROUNDS * STATES.len()).map(|number| scene.packed(100 + number as u64)).collect();
    let mut packs = packs.iter();
    let pages = Pages::of(&scene.roots[1].join("few"));
    let (mut reads, mut arrivals) = (vec![Vec::new(); STATES.len()], vec![Vec::new(); STATES.len()]);
    let mut at = 0;
    for _ in 0..ROUNDS {
        for (number, state) in STATES.into_iter().enumerate() {
            let busy = scene.begin(state);
            for _ in 0..READS {
                reads[number].push(pages.read(at).expect("B's registry is well").1);
                at += STRIDE;
            }
            arrivals[number].push(scene.pack_time(packs.next().expect("there are enough")));
            scene.end(state, busy);
        }
    }
    println!("one registry: {on_one}; A has streamed {} bytes", scene.streamed.load(Ordering::Relaxed));
    let mut unfair = Vec::new();
    for (what, times) in [("first byte of a read", &reads), ("pack", &arrivals)] {
        let alone = median(&times[0]);
        for (number, state) in STATES.into_iter().enumerate() {
            let beside = median(&times[number]);
            let ratio = beside.as_secs_f64() / alone.as_secs_f64();
            let worst = times[number].iter().max().copied().unwrap_or_default();
            println!(
                "one registry: {on_one}; {what} of B, A {state:?}: median {beside:?}, longest {worst:?}, {ratio:.2}"
            );
            if ratio > MOST {
                unfair.push(format!("{what}, {state:?}: {ratio:.2}"));
            }
        }
    }
    assert!(unfair.is_empty(), "{unfair:?}");
}

#[test]
fn what_another_registry_does_is_nothing_to_an_image() {
    is_fair(false);
}

#[test]
fn what_another_image_of_the_same_registry_does_is_nothing_to_an_image() {
    is_fair(true);
}
