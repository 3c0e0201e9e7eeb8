//! A model of a layer's cache, byte by byte: what is there, in which way, and with which value.

use std::time::Duration;

use proptest::prelude::*;
use soci_core::units::{ByteRange, SpanId};

use super::super::room::Round;
use super::{FOREVER, Lab};
use crate::cache::Held;
use crate::cache::bitmap::PAGE;

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

    /// The pages that lie wholly in `range` are given back; the end also ends the last page.
    fn release(&mut self, range: ByteRange) {
        let size = self.0.len();
        for (number, page) in self.0.chunks_mut(PAGE as usize).enumerate() {
            let start = number * PAGE as usize;
            let end = (start + page.len()).min(size);
            if range.start <= start as u64 && end as u64 <= range.end {
                page.fill((Held::Absent, 0));
            }
        }
    }

    /// After a kill. Whole pages stay; whole only with bytes of a pack makes packed.
    fn restart(&mut self) {
        for page in self.0.chunks_mut(PAGE as usize) {
            let has = |held| page.iter().any(|(known, _)| *known == held);
            let held = match (has(Held::Absent), has(Held::Packed)) {
                (true, _) => Held::Absent,
                (false, true) => Held::Packed,
                (false, false) => Held::Checked,
            };
            for known in page {
                known.0 = held;
            }
        }
    }

    /// Whether a whole page of `range` has bytes that only a pack has brought. The last page may be short.
    fn packed_in(&self, range: ByteRange) -> bool {
        let pages = self.0.chunks(PAGE as usize).enumerate();
        let within = |(number, page): &(usize, &[(Held, u8)])| {
            let start = *number as u64 * PAGE;
            range.start <= start && start + page.len() as u64 <= range.end
        };
        pages.filter(within).any(|(_, page)| page.iter().any(|(held, _)| *held == Held::Packed))
    }

    fn count(&self, held: Held) -> usize {
        self.0.iter().filter(|(known, _)| *known == held).count()
    }

    fn all(&self, range: ByteRange, good: impl Fn(Held) -> bool) -> bool {
        self.at(range).iter().all(|(held, _)| good(*held))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store {
        start: u64,
        length: u64,
    },
    Span(u32),
    Pack {
        extents: Vec<(u64, u64)>,
        wrong: Option<u64>,
    },
    Kill,
    Close,
    Forget,
    /// Places are given back; or spans, some of which may be part of it.
    Release {
        start: u64,
        length: u64,
    },
}

fn steps(size: u64) -> impl Strategy<Value = Vec<Step>> {
    let extent = (0..size, prop_oneof![1u64..40, 1u64..9000]);
    let step = prop_oneof![
        3 => extent.clone().prop_map(|(start, length)| Step::Store { start, length }),
        3 => (0u32..9).prop_map(Step::Span),
        5 => (prop::collection::vec(extent, 1..4), prop::option::weighted(0.15, 0u64..9000))
            .prop_map(|(extents, wrong)| Step::Pack { extents, wrong }),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
        1 => Just(Step::Forget),
        2 => (0..size, 0u64..20_000).prop_map(|(start, length)| Step::Release { start, length }),
    ];
    prop::collection::vec(step, 1..24)
}

/// What a pack brings at once.
fn block(
    truth: &[u8],
    extents: impl Iterator<Item = ByteRange>,
    wrong: Option<u64>,
) -> Vec<(ByteRange, Vec<u8>)> {
    extents.map(|range| (range, extent(truth, range, wrong))).collect()
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
    #![proptest_config(ProptestConfig::with_cases(64))]

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
                Step::Pack { extents, wrong } => {
                    let block = block(&truth, extents.into_iter().map(|(start, length)| clip(start, length)), wrong);
                    let parts: Vec<_> = block.iter().map(|(range, bytes)| (range.start, &bytes[..])).collect();
                    lab.manager.cache().store_packed(&parts).unwrap();
                    for (range, bytes) in &block {
                        model.pack(range.start, bytes);
                    }
                }
                Step::Kill => {
                    lab.kill();
                    model.restart();
                }
                Step::Close => {
                    lab.manager.cache().close().unwrap();
                    lab.kill();
                }
                Step::Forget => {
                    lab.manager.cache().forget_packed().unwrap();
                    model.forget();
                }
                Step::Release { start, length } => {
                    let range = clip(start, length);
                    let (holes, on_disk) = (lab.manager.cache().holes(), lab.on_disk());
                    let released = lab.manager.cache().release(range).unwrap();
                    let packed = model.packed_in(range);
                    model.release(range);
                    prop_assert_eq!(released.packed, packed);
                    prop_assert!(lab.manager.cache().holes() > holes || released.bytes == 0);
                    prop_assert!(lab.on_disk() + released.bytes <= on_disk, "the disk has it back");
                }
            }
            let cache = lab.manager.cache();
            for (start, length) in &asks {
                let range = clip(*start, *length);
                prop_assert_eq!(cache.holds(range), model.all(range, |held| held != Held::Absent));
                prop_assert_eq!(cache.only_packed(range), model.all(range, |held| held == Held::Packed));
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
        let mut mismatches = 0;
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
                    if differs {
                        mismatches += 1;
                        model.forget();
                    }
                }
                Step::Pack { extents, wrong } => {
                    let block = block(&truth, extents.into_iter().map(|(start, length)| clip(start, length)), wrong);
                    let parts: Vec<_> = block.iter().map(|(range, bytes)| (range.start, &bytes[..])).collect();
                    lab.manager.fill_packed(&parts).unwrap();
                    for (range, bytes) in &block {
                        model.pack(range.start, bytes);
                    }
                }
                Step::Kill | Step::Close => {
                    if matches!(step, Step::Close) {
                        lab.manager.cache().close().unwrap();
                    }
                    lab.kill();
                    if matches!(step, Step::Kill) {
                        model.restart();
                    }
                    for span in 0..lab.ztoc.spans().len() {
                        let checked = model.all(lab.span(span), |held| held == Held::Checked);
                        prop_assert_eq!(lab.manager.states().is_cached(SpanId(span)), checked);
                    }
                }
                Step::Forget => {
                    lab.manager.forget_packed();
                    model.forget();
                }
                Step::Release { .. } => {
                    let all = clip(0, size);
                    let packed = model.count(Held::Packed);
                    let mut forgotten = lab.manager.forgotten();
                    forgotten.mark_unchanged();
                    lab.manager.give_back(Round::MAX, u64::MAX).unwrap();
                    // Parts of pages at the ends of spans may stay.
                    for range in lab.manager.cache().absent(all) {
                        model.0[range.start as usize..range.end as usize].fill((Held::Absent, 0));
                    }
                    prop_assert_eq!(forgotten.has_changed().unwrap(), model.count(Held::Packed) < packed);
                    for span in 0..lab.ztoc.spans().len() {
                        prop_assert_eq!(lab.manager.cache().present_in(lab.span(span)), 0);
                        prop_assert!(!lab.manager.states().is_cached(SpanId(span)) || lab.span(span).len() < 2 * PAGE);
                    }
                }
            }
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
