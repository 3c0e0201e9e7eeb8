//! Packs and spans that fill one cache: a model byte by byte, and readers that wait for whichever comes first.
//!
//! The layers are plain tars, so that a span's compressed bytes are a piece of the tar. Nothing can be fetched: a reader that
//! asks for a span is told so at once, which shows that it asked.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use soci_core::digest::Digest;
use soci_core::testing::{TarBuilder, TarEntry, TarFormat};
use soci_core::units::{ByteRange, SpanId};

use soci_core::ztoc::{BuildOptions, Ztoc, build_tar};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::bitmap::{BootId, PAGE};
use super::cache::{Held, SpanCache};
use super::{SpanError, SpanManager, SpanOptions};
use crate::prefetch::{Engine, EngineOptions};
use crate::stats::Stats;

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
        let root = tempfile::tempdir().unwrap();
        let options = SpanOptions { pack_patience, read_timeout: FOREVER, ..SpanOptions::default() };
        let manager = open(&ztoc, &runtime, &stats, root.path(), options);
        Self { tar, ztoc, runtime, stats, root, options, manager }
    }

    /// What a killed process leaves behind, opened again.
    fn kill(&mut self) {
        let copy = tempfile::tempdir().unwrap();
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

    fn span(&self, span: u32) -> ByteRange {
        self.ztoc.spans().uncompressed_range(SpanId(span))
    }

    fn bytes(&self, range: ByteRange) -> &[u8] {
        &self.tar[range.start as usize..range.end as usize]
    }

    /// The span arrives, if it was not there.
    fn fill(&self, span: u32) {
        if let Some(claim) = self.manager.states().claim(SpanId(span)) {
            self.manager.fill(claim, self.bytes(self.span(span))).unwrap();
        }
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
    SpanManager::new(ztoc.clone(), cache, engine, Arc::clone(stats), options)
}

/// What is there of each byte, and which value it has.
struct Model(Vec<(Held, u8)>);

impl Model {
    fn new(size: usize) -> Self {
        Self(vec![(Held::Absent, 0); size])
    }

    fn at(&self, range: ByteRange) -> &[(Held, u8)] {
        &self.0[range.start as usize..range.end as usize]
    }

    /// Returns the first byte where a pack had brought another one.
    fn store(&mut self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut differs = None;
        for (at, byte) in (offset..).zip(bytes) {
            let known = &mut self.0[at as usize];
            if known.0 == Held::Packed && known.1 != *byte {
                differs.get_or_insert(at);
            }
            *known = (Held::Checked, *byte);
        }
        differs
    }

    fn pack(&mut self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let known = &mut self.0[at as usize];
            if known.0 == Held::Absent {
                *known = (Held::Packed, *byte);
            }
        }
    }

    fn forget(&mut self) {
        for known in self.0.iter_mut().filter(|known| known.0 == Held::Packed) {
            known.0 = Held::Absent;
        }
    }

    /// Whole pages stay; whole only with bytes of a pack makes packed.
    fn restart(&mut self) {
        for page in self.0.chunks_mut(PAGE as usize) {
            let has = |held| page.iter().any(|(known, _)| *known == held);
            let held = match (has(Held::Absent), has(Held::Packed)) {
                (true, _) => Held::Absent,
                (false, true) => Held::Packed,
                (false, false) => Held::Checked,
            };
            page.iter_mut().for_each(|known| known.0 = held);
        }
    }

    fn all(&self, range: ByteRange, good: impl Fn(Held) -> bool) -> bool {
        self.at(range).iter().all(|(held, _)| good(*held))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store { start: u64, length: u64 },
    Span(u32),
    Pack { start: u64, length: u64, wrong: Option<u64> },
    Kill,
    Close,
    Forget,
}

fn steps(size: u64) -> impl Strategy<Value = Vec<Step>> {
    let extent = (0..size, prop_oneof![1u64..40, 1u64..9000]);
    let step = prop_oneof![
        3 => extent.clone().prop_map(|(start, length)| Step::Store { start, length }),
        3 => (0u32..9).prop_map(Step::Span),
        5 => (extent, prop::option::weighted(0.15, 0u64..9000))
            .prop_map(|((start, length), wrong)| Step::Pack { start, length, wrong }),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
        1 => Just(Step::Forget),
    ];
    prop::collection::vec(step, 1..24)
}

/// The bytes of a pack's extent, of which one may be wrong.
fn extent(truth: &[u8], range: ByteRange, wrong: Option<u64>) -> Vec<u8> {
    let mut bytes = truth[range.start as usize..range.end as usize].to_vec();
    let length = bytes.len() as u64;
    if let Some(at) = wrong.filter(|_| length > 0) {
        bytes[(at % length) as usize] ^= 0x55;
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The cache file alone, with pieces of spans of any length.
    #[test]
    fn cache_holds_what_the_model_holds(steps in steps(44_000), asks in prop::collection::vec((0u64..44_000, 0u64..9000), 6)) {
        let mut lab = Lab::new(FOREVER);
        let (truth, size) = (lab.tar.clone(), lab.tar.len() as u64);
        let mut model = Model::new(truth.len());
        let clip = |start: u64, length: u64| ByteRange::new(start.min(size), (start + length).min(size));
        for step in steps {
            match step {
                Step::Store { start, length } => {
                    let range = clip(start, length);
                    let mut differs = Vec::new();
                    lab.manager.cache().store(range.start, lab.bytes(range), &mut |at| differs.push(at)).unwrap();
                    prop_assert_eq!(differs.first().copied(), model.store(range.start, lab.bytes(range)));
                }
                Step::Span(span) => {
                    let range = lab.span(span.min(lab.ztoc.spans().len() - 1));
                    lab.manager.cache().store(range.start, lab.bytes(range), &mut |_| {}).unwrap();
                    model.store(range.start, lab.bytes(range));
                }
                Step::Pack { start, length, wrong } => {
                    let range = clip(start, length);
                    let bytes = extent(&truth, range, wrong);
                    lab.manager.cache().store_packed(range.start, &bytes).unwrap();
                    model.pack(range.start, &bytes);
                }
                Step::Kill => {
                    lab.kill();
                    model.restart();
                }
                Step::Close => {
                    lab.manager.cache().close().unwrap();
                    lab.kill();
                    model.restart();
                }
                Step::Forget => {
                    lab.manager.cache().forget_packed().unwrap();
                    model.forget();
                }
            }
            let cache = lab.manager.cache();
            for (start, length) in &asks {
                let range = clip(*start, *length);
                prop_assert_eq!(cache.holds(range), model.all(range, |held| held != Held::Absent));
                prop_assert_eq!(cache.checked(range), model.all(range, |held| held == Held::Checked));
                prop_assert_eq!(cache.any_packed(range), !model.all(range, |held| held != Held::Packed));
            }
            let absent: Vec<u64> =
                cache.absent(clip(0, size)).into_iter().flat_map(|range| range.start..range.end).collect();
            let wanted: Vec<u64> = (0..size).filter(|at| model.0[*at as usize].0 == Held::Absent).collect();
            prop_assert_eq!(absent, wanted);
            let mut bytes = vec![0; truth.len()];
            cache.read(0, &mut bytes).unwrap();
            for (at, (held, byte)) in model.0.iter().enumerate() {
                prop_assert!(*held == Held::Absent || bytes[at] == *byte, "byte {} is another", at);
            }
            let whole = model.0.chunks(PAGE as usize).filter(|page| page.iter().all(|(held, _)| *held != Held::Absent));
            prop_assert_eq!(cache.bytes_present(), (whole.count() as u64 * PAGE).min(size));
        }
    }

    /// Readers, spans and packs through the manager.
    #[test]
    fn a_read_gives_what_was_checked_or_packed(steps in steps(44_000), promised in any::<bool>(), asks in prop::collection::vec((0u64..44_000, 0u64..9000), 4)) {
        let mut lab = Lab::new(Duration::from_millis(1));
        let (truth, size) = (lab.tar.clone(), lab.tar.len() as u64);
        let mut model = Model::new(truth.len());
        let (mut wrong_pack, mut mismatches) = (false, 0);
        let clip = |start: u64, length: u64| ByteRange::new(start.min(size), (start + length).min(size));
        for step in steps {
            match step {
                Step::Store { .. } => {}
                Step::Span(span) => {
                    let span = span.min(lab.ztoc.spans().len() - 1);
                    let range = lab.span(span);
                    let cached = model.all(range, |held| held == Held::Checked);
                    prop_assert!(!lab.manager.states().is_cached(SpanId(span)) || cached, "cached but not checked");
                    lab.fill(span);
                    prop_assert!(lab.manager.states().is_cached(SpanId(span)));
                    let differs = model.store(range.start, lab.bytes(range)).is_some();
                    mismatches += u64::from(differs);
                    wrong_pack |= differs;
                }
                Step::Pack { start, length, wrong } => {
                    let range = clip(start, length);
                    let bytes = extent(&truth, range, wrong);
                    let filled = lab.manager.fill_packed(range, &bytes);
                    prop_assert_eq!(filled.is_err(), wrong_pack);
                    if !wrong_pack {
                        model.pack(range.start, &bytes);
                    }
                }
                Step::Kill | Step::Close => {
                    lab.kill();
                    model.restart();
                    wrong_pack = false;
                    for span in 0..lab.ztoc.spans().len() {
                        let checked = model.all(lab.span(span), |held| held == Held::Checked);
                        prop_assert_eq!(lab.manager.states().is_cached(SpanId(span)), checked);
                    }
                }
                Step::Forget => {
                    lab.manager.forget_packed();
                    model.forget();
                    wrong_pack = false;
                }
            }
            prop_assert_eq!(lab.manager.packed_wrong(), wrong_pack);
            prop_assert_eq!(lab.stats.pack_mismatches.get(), mismatches);
            if promised {
                lab.manager.promise(vec![clip(0, size)]);
            }
            for (start, length) in &asks {
                let range = clip(*start, *length);
                let there = model.all(range, |held| held != Held::Absent);
                let wanted: Vec<u8> = model.at(range).iter().map(|(_, byte)| *byte).collect();
                let hits = lab.stats.pack_hits.get();
                let mut bytes = vec![0; range.len() as usize];
                prop_assert_eq!(lab.manager.read_cached(range, &mut bytes).unwrap(), there);
                if there {
                    prop_assert_eq!(&bytes, &wanted);
                    let packed = !model.all(range, |held| held != Held::Packed);
                    prop_assert_eq!(lab.stats.pack_hits.get() - hits, u64::from(packed));
                }
                // Nothing comes: the read ends, by its patience when everything was promised.
                prop_assert_eq!(lab.read(range).ok(), there.then_some(wanted));
                let checked = model.all(range, |held| held == Held::Checked);
                prop_assert_eq!(lab.manager.read_checked(range), checked.then(|| lab.bytes(range).to_vec()));
            }
        }
    }
}

#[test]
fn a_reader_of_promised_bytes_is_answered_by_the_pack() {
    let lab = Lab::new(FOREVER);
    let (range, half) = (ByteRange::new(100, 6000), 3000);
    lab.manager.promise(vec![ByteRange::new(50, 2000), ByteRange::new(2000, 7000)]);
    let reader = lab.waiting(range);
    lab.manager.fill_packed(ByteRange::new(half, 6000), lab.bytes(ByteRange::new(half, 6000))).unwrap();
    lab.manager.fill_packed(ByteRange::new(100, half), lab.bytes(ByteRange::new(100, half))).unwrap();
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
    lab.manager.fill_packed(range, lab.bytes(range)).unwrap();
    assert_eq!(lab.answer(reader).unwrap(), lab.bytes(range));
    drop(claim);
}

#[test]
fn wrong_bytes_of_a_pack_go_when_their_span_comes() {
    let mut lab = Lab::new(FOREVER);
    let wrong = ByteRange::new(3 * PAGE - 10, 6 * PAGE + 10);
    let bytes: Vec<u8> = lab.bytes(wrong).iter().map(|byte| !byte).collect();
    lab.manager.fill_packed(wrong, &bytes).unwrap();
    assert_eq!(lab.read(wrong).unwrap(), bytes);
    assert!(!lab.manager.packed_wrong());
    let span = (wrong.start / SPAN) as u32 + 1;
    lab.fill(span);
    assert!(lab.manager.packed_wrong());
    assert_eq!(lab.stats.pack_mismatches.get(), 1);
    assert_eq!(lab.read(lab.span(span)).unwrap(), lab.bytes(lab.span(span)));
    assert!(matches!(lab.manager.fill_packed(wrong, &bytes), Err(SpanError::WrongPack)));

    lab.manager.forget_packed();
    assert!(!lab.manager.packed_wrong());
    assert!(lab.manager.checked(lab.span(span)), "what was checked stays");
    let rest = ByteRange::new(lab.span(span).end, wrong.end);
    assert_eq!(lab.manager.cache().absent(rest), [rest]);
    lab.kill();
    assert_eq!(lab.manager.cache().absent(rest), [rest], "forgotten for good");
}

#[test]
fn a_full_disk_or_a_map_that_cannot_be_written_is_harmless() {
    let mut lab = Lab::new(FOREVER);
    let (first, second) = (lab.span(0), lab.span(1));
    {
        let broken = Arc::get_mut(&mut lab.manager).unwrap().cache.break_data();
        let claim = lab.manager.states().claim(SpanId(0)).unwrap();
        let Err((claim, SpanError::Cache(_))) = lab.manager.fill(claim, lab.bytes(first)) else {
            panic!("the write cannot have worked");
        };
        drop(claim);
        assert!(lab.manager.fill_packed(first, lab.bytes(first)).is_err());
        assert_eq!(lab.manager.cache().absent(first), [first]);
        Arc::get_mut(&mut lab.manager).unwrap().cache.mend_data(broken);
    }
    Arc::get_mut(&mut lab.manager).unwrap().cache.break_maps();
    lab.fill(0);
    lab.manager.fill_packed(second, lab.bytes(second)).unwrap();
    let both = ByteRange::new(first.start, second.end);
    assert_eq!(
        lab.read(both).unwrap(),
        lab.bytes(both),
        "what is there is known as long as the process lives"
    );
    let wrong = vec![0; first.len() as usize];
    lab.manager.fill_packed(first, &wrong).unwrap();
    assert_eq!(lab.read(first).unwrap(), lab.bytes(first), "checked bytes never change");
    lab.kill();
    assert_eq!(lab.manager.cache().absent(both), [both], "and fetched again after a restart");
}
