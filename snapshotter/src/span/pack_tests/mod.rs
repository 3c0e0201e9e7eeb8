//! Packs and spans that fill one cache: readers that wait for whichever comes first, and what goes wrong; [`model`] has all
//! orders of events, byte by byte.
//!
//! The layers are plain tars, so that a span's compressed bytes are a piece of the tar. Nothing can be fetched: a reader that
//! asks for a span is told so at once, which shows that it asked.

mod model;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use soci_core::digest::Digest;
use soci_core::testing::{TarBuilder, TarEntry, TarFormat};
use soci_core::units::{ByteRange, SpanId};

use soci_core::ztoc::{BuildOptions, Ztoc, build_tar};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::room::Round;
use super::{SpanError, SpanManager, SpanOptions};
use crate::boot::BootId;
use crate::cache::SpanCache;
use crate::cache::bitmap::PAGE;
use crate::engine::{Engine, EngineOptions};
use crate::telemetry::stats::Stats;

const BOOT: BootId = BootId::from_bytes([1; 16]);
/// Not a multiple of a page, nor of what a tar is made of.
const SPAN: u64 = 5000;
const FOREVER: Duration = Duration::from_hours(1);

fn tar() -> Vec<u8> {
    let content: Vec<u8> = (0..40_000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    TarBuilder::archive(TarFormat::Pax, [&TarEntry::file("file", content)])
}

/// One layer's spans over a cache that can be left behind as a kill would leave it.
struct Lab {
    tar: Vec<u8>,
    ztoc: Ztoc,
    runtime: Runtime,
    stats: Arc<Stats>,
    root: TempDir,
    options: SpanOptions,
    manager: Arc<SpanManager>,
}

impl Lab {
    fn new(pack_patience: Duration) -> Self {
        let tar = tar();
        let built =
            build_tar(&tar[..], &BuildOptions { span_size: SPAN, ..BuildOptions::default() }).unwrap();
        let ztoc = Ztoc::open(built.ztoc.into()).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let stats = Arc::new(Stats::default());
        let root = directory();
        let options = SpanOptions { pack_patience, read_timeout: FOREVER, ..SpanOptions::default() };
        let manager = open(&ztoc, &runtime, &stats, root.path(), options);
        Self { tar, ztoc, runtime, stats, root, options, manager }
    }

    /// What a killed process leaves behind, opened again.
    fn kill(&mut self) {
        let copy = directory();
        let identity = SpanManager::identity(Digest::of(&self.tar), &self.ztoc);
        let (from, to) =
            (SpanCache::directory(self.root.path(), &identity), SpanCache::directory(copy.path(), &identity));
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
        self.manager = open(&self.ztoc, &self.runtime, &self.stats, copy.path(), self.options);
        self.root = copy;
    }

    /// Bytes that the cache's data takes on disk.
    fn on_disk(&self) -> u64 {
        let identity = SpanManager::identity(Digest::of(&self.tar), &self.ztoc);
        let data = SpanCache::directory(self.root.path(), &identity).join("data");
        std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(data).unwrap()) * 512
    }

    fn span(&self, span: u32) -> ByteRange {
        self.ztoc.spans().uncompressed_range(SpanId(span))
    }

    fn bytes(&self, range: ByteRange) -> &[u8] {
        &self.tar[range.start as usize..range.end as usize]
    }

    /// The span arrives, if it was not there. A fetch that has failed may still be about to give its claim back.
    fn fill(&self, span: u32) {
        while !self.manager.states().is_cached(SpanId(span)) {
            if let Some(claim) = self.manager.states().claim(SpanId(span)) {
                self.manager.fill(claim, None, self.bytes(self.span(span))).unwrap();
            }
        }
    }

    /// The span arrives and cannot be written.
    fn fill_unwritten(&self, span: u32) {
        let claim = self.manager.states().claim(SpanId(span)).unwrap();
        self.manager.fill(claim, None, self.bytes(self.span(span))).unwrap();
    }

    fn read(&self, range: ByteRange) -> Result<Vec<u8>, SpanError> {
        self.runtime.block_on(self.manager.read(range, range))
    }

    /// A read that has subscribed: what happens from now on, it must see.
    fn waiting(&self, range: ByteRange) -> tokio::task::JoinHandle<Result<Vec<u8>, SpanError>> {
        let manager = Arc::clone(&self.manager);
        let readers = self.manager.arrived.receiver_count();
        let reader = self.runtime.spawn(async move { manager.read(range, range).await });
        while self.manager.arrived.receiver_count() == readers {
            std::thread::yield_now();
        }
        reader
    }

    fn answer(
        &self,
        reader: tokio::task::JoinHandle<Result<Vec<u8>, SpanError>>,
    ) -> Result<Vec<u8>, SpanError> {
        self.runtime.block_on(reader).unwrap()
    }
}

/// The cache of a layer that nobody else has.
fn cache_of(manager: &mut Arc<SpanManager>) -> &mut SpanCache {
    Arc::get_mut(&mut Arc::get_mut(manager).unwrap().cache).unwrap()
}

/// A file that refuses every write, for another reason than space.
fn refuses() -> File {
    File::open("/dev/null").unwrap()
}

/// In memory where that can be had: each cache that is closed syncs its files.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(
    ztoc: &Ztoc,
    runtime: &Runtime,
    stats: &Arc<Stats>,
    root: &Path,
    options: SpanOptions,
) -> Arc<SpanManager> {
    let identity = SpanManager::identity(Digest::of(&tar()), ztoc);
    let cache = SpanCache::open(root, identity, BOOT).unwrap();
    let engine = Engine::new(runtime.handle().clone(), EngineOptions::default(), Arc::clone(stats));
    SpanManager::new(ztoc.clone(), cache, Arc::new(engine), Arc::clone(stats), options)
}

#[test]
fn a_reader_of_promised_bytes_is_answered_by_the_pack() {
    let lab = Lab::new(FOREVER);
    let (range, half) = (ByteRange::new(100, 6000), 3000);
    lab.manager.promise(vec![ByteRange::new(50, 2000), ByteRange::new(2000, 7000)]);
    let reader = lab.waiting(range);
    let (head, tail) = (ByteRange::new(100, half), ByteRange::new(half, 6000));
    lab.manager.fill_packed(&[(tail.start, lab.bytes(tail)), (head.start, lab.bytes(head))]).unwrap();
    assert_eq!(lab.answer(reader).unwrap(), lab.bytes(range));
    assert_eq!(lab.stats.pack_hits.get(), 1);
    assert_eq!(lab.stats.fetch_requests.get() + lab.stats.span_failures.get(), 0, "no span was asked for");
    assert!(!lab.manager.states().is_cached(SpanId(0)), "the background class still compares");
}

#[test]
fn a_reader_of_promised_bytes_is_answered_by_the_span() {
    let lab = Lab::new(FOREVER);
    lab.manager.promise(vec![ByteRange::new(0, 9000)]);
    let reader = lab.waiting(ByteRange::new(4990, 5010));
    lab.fill(0);
    lab.fill(1);
    assert_eq!(lab.answer(reader).unwrap(), lab.bytes(ByteRange::new(4990, 5010)));
}

#[test]
fn a_promise_that_is_over_sends_readers_to_the_spans() {
    let lab = Lab::new(FOREVER);
    lab.manager.promise(vec![ByteRange::new(0, 9000)]);
    let reader = lab.waiting(ByteRange::new(0, 10));
    lab.manager.promise_over();
    assert!(lab.answer(reader).is_err(), "the span was asked for, and there is no source");
}

#[test]
fn bytes_that_are_not_wholly_promised_are_asked_for_at_once() {
    let lab = Lab::new(FOREVER);
    lab.manager.promise(vec![ByteRange::new(0, 10)]);
    assert!(lab.read(ByteRange::new(5, 11)).is_err());
    // Of two spans one is promised: the other one is not waited for.
    lab.manager.promise(vec![ByteRange::new(0, SPAN)]);
    assert!(lab.read(ByteRange::new(0, SPAN + 1)).is_err());
}

#[test]
fn a_reader_at_a_span_s_slot_is_answered_by_the_pack() {
    let lab = Lab::new(FOREVER);
    let range = ByteRange::new(10, 20);
    let claim = lab.manager.states().claim(SpanId(0)).unwrap();
    let reader = lab.waiting(range);
    lab.manager.fill_packed(&[(range.start, lab.bytes(range))]).unwrap();
    assert_eq!(lab.answer(reader).unwrap(), lab.bytes(range));
    drop(claim);
}

#[test]
fn wrong_bytes_of_a_pack_go_when_their_span_comes() {
    let mut lab = Lab::new(FOREVER);
    let wrong = ByteRange::new(3 * PAGE - 10, 6 * PAGE + 10);
    let bytes: Vec<u8> = lab.bytes(wrong).iter().map(|byte| !byte).collect();
    lab.manager.fill_packed(&[(wrong.start, &bytes)]).unwrap();
    assert_eq!(lab.read(wrong).unwrap(), bytes);
    let span = (wrong.start / SPAN) as u32 + 1;
    lab.fill(span);
    assert_eq!(lab.stats.pack_mismatches.get(), 1);
    assert_eq!(lab.read(lab.span(span)).unwrap(), lab.bytes(lab.span(span)));
    assert!(lab.manager.checked(lab.span(span)), "what was checked stays");
    let rest = ByteRange::new(lab.span(span).end, wrong.end);
    assert_eq!(lab.manager.cache().absent(rest), [rest]);
    lab.kill();
    assert_eq!(lab.manager.cache().absent(rest), [rest], "forgotten for good");
}

#[test]
fn a_wrong_pack_that_races_with_spans_never_changes_what_was_checked() {
    for round in 0..200 {
        let lab = Lab::new(FOREVER);
        let cache = lab.manager.cache();
        let size = lab.tar.len() as u64;
        let wrong: Vec<u8> = lab.tar.iter().map(|byte| !byte).collect();
        let extent = [701, 9000, 50_000][round % 3];
        let start = Barrier::new(3);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                for (at, bytes) in (0..).step_by(extent).zip(wrong.chunks(extent)) {
                    cache.store_packed(&[(at, bytes)]).unwrap();
                }
            });
            scope.spawn(|| {
                start.wait();
                (0..lab.ztoc.spans().len()).for_each(|span| lab.fill(span));
            });
            start.wait();
            for start in (0..size).step_by(97).cycle().take(1000) {
                let range = ByteRange::new(start, (start + 97).min(size));
                if let Some(bytes) = lab.manager.read_checked(range) {
                    assert_eq!(bytes, lab.bytes(range));
                } else if cache.holds(range) {
                    let mut bytes = vec![0; range.len() as usize];
                    cache.read(range.start, &mut bytes).unwrap();
                    let ours =
                        bytes.iter().zip(lab.bytes(range)).all(|(got, truth)| got == truth || *got == !truth);
                    assert!(ours, "a byte that nobody has brought at {range}");
                }
            }
        });
        assert_eq!(lab.manager.read_checked(ByteRange::new(0, size)).unwrap(), lab.tar);
        assert!(!cache.any_packed(ByteRange::new(0, size)));
    }
}

#[test]
fn a_reader_of_promised_bytes_is_woken_by_a_span_that_is_in_memory_alone() {
    let mut lab = Lab::new(FOREVER);
    let first = lab.span(0);
    let broken = cache_of(&mut lab.manager).break_data(refuses());
    drop(broken);
    lab.manager.promise(vec![first]);
    let reader = lab.waiting(first);
    lab.fill_unwritten(0);
    assert_eq!(lab.answer(reader).unwrap(), lab.bytes(first));
}

#[test]
fn only_a_write_that_finds_no_space_asks_for_room() {
    let full = File::options().read(true).write(true).open("/dev/full").unwrap();
    for (by, asks) in [(refuses(), false), (full, true)] {
        let mut lab = Lab::new(FOREVER);
        drop(cache_of(&mut lab.manager).break_data(by));
        lab.fill_unwritten(0);
        assert_eq!(lab.manager.engine.room().measured(i64::MAX, 0), asks);
    }
}

#[test]
fn a_full_disk_or_a_map_that_cannot_be_written_is_harmless() {
    let mut lab = Lab::new(FOREVER);
    let (first, second) = (lab.span(0), lab.span(1));
    {
        let broken = cache_of(&mut lab.manager).break_data(refuses());
        lab.fill_unwritten(0);
        assert_eq!(lab.read(first).unwrap(), lab.bytes(first), "from memory");
        assert!(lab.manager.states().is_unrequested(SpanId(0)), "it is fetched again when it has had to go");
        assert!(lab.manager.fill_packed(&[(first.start, lab.bytes(first))]).is_err());
        assert_eq!(lab.manager.cache().absent(first), [first]);
        cache_of(&mut lab.manager).mend_data(broken);
    }
    cache_of(&mut lab.manager).break_maps();
    lab.fill(0);
    lab.manager.fill_packed(&[(second.start, lab.bytes(second))]).unwrap();
    let both = ByteRange::new(first.start, second.end);
    assert_eq!(
        lab.read(both).unwrap(),
        lab.bytes(both),
        "what is there is known as long as the process lives"
    );
    let wrong = vec![0; first.len() as usize];
    lab.manager.fill_packed(&[(first.start, &wrong)]).unwrap();
    assert_eq!(lab.read(first).unwrap(), lab.bytes(first), "checked bytes never change");
    lab.kill();
    assert_eq!(lab.manager.cache().absent(both), [both], "and fetched again after a restart");
}

/// While others fill spans and give them back, whoever is told that bytes are there gets those bytes.
#[test]
fn nobody_reads_a_hole() {
    let lab = Lab::new(FOREVER);
    let (spans, size) = (lab.ztoc.spans().len(), lab.tar.len() as u64);
    let (over, read, given) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let is_over = || over.load(Ordering::Relaxed);
    let wrong = std::thread::scope(|scope| {
        scope.spawn(|| {
            for span in (0..spans).cycle().take_while(|_| !is_over()) {
                lab.fill(span);
            }
        });
        scope.spawn(|| {
            while !is_over() {
                given.fetch_add(lab.manager.give_back(Round::MAX, 3 * SPAN).unwrap(), Ordering::Relaxed);
            }
        });
        let readers = (0..2).map(|number| {
            let (lab, read, given, over, is_over) = (&lab, &read, &given, &over, &is_over);
            scope.spawn(move || {
                let mut at = number * 7919;
                let mut bytes = vec![0; 2 * PAGE as usize];
                while read.load(Ordering::Relaxed) < 150_000 || given.load(Ordering::Relaxed) < 100 * SPAN {
                    at = (at + 104_729) % (size - bytes.len() as u64);
                    let range = ByteRange::new(at, at + bytes.len() as u64);
                    if lab.manager.read_cached(range, &mut bytes).unwrap() {
                        read.fetch_add(1, Ordering::Relaxed);
                        if bytes != lab.bytes(range) {
                            over.store(true, Ordering::Relaxed);
                            return Some(range);
                        }
                    }
                    let checked = lab.manager.read_checked(range);
                    if checked.is_some_and(|checked| checked != lab.bytes(range)) {
                        over.store(true, Ordering::Relaxed);
                        return Some(range);
                    }
                    if is_over() {
                        return None;
                    }
                }
                None
            })
        });
        let readers: Vec<_> = readers.collect();
        let wrong: Vec<_> = readers.into_iter().filter_map(|reader| reader.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        wrong
    });
    assert_eq!(wrong, Vec::<ByteRange>::new(), "after {read:?} reads");
}
