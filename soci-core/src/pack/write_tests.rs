//! Packs of random needs against the layers' own bytes; the same needs give the same pack.

use proptest::prelude::*;

use super::{
    scratch::Scratch,
    testing::PackBytes,
    write::{Bytes, Stored, fitting_head, lay_out, write},
    *,
};
use crate::{coverage::Coverage, digest::Digest, units::ByteRange};

const SIZES: [u64; 3] = [1_600_000, 1536, 100_001];

/// Bytes that tell their place.
fn tar(layer: usize) -> Vec<u8> {
    let words = (0..SIZES[layer].div_ceil(4))
        .flat_map(|at| ((at as u32).wrapping_mul(2_654_435_761) ^ layer as u32).to_le_bytes());
    words.take(SIZES[layer] as usize).collect()
}

fn layers() -> (Vec<Digest>, Vec<Vec<u8>>) {
    let tars: Vec<Vec<u8>> = (0..SIZES.len()).map(tar).collect();
    (tars.iter().map(|tar| Digest::of(tar)).collect(), tars)
}

fn packed(
    needs: &[(usize, ByteRange)],
    must_have: usize,
    budget: Option<u64>,
) -> Result<PackBytes, PackBuildError> {
    let (digests, tars) = layers();
    let layers: Vec<_> = digests.into_iter().zip(tars.iter().map(Vec::as_slice)).collect();
    testing::packed(&Digest::of(b"image"), &layers, needs, must_have, budget)
}

/// All extents with their layer and plain bytes, block by block.
fn opened(pack: &PackBytes) -> Vec<(Digest, ByteRange, Vec<u8>)> {
    let head = PackHead::open(&pack.blob[..pack.head.head_size() as usize]).unwrap();
    assert_eq!((&head, head.size()), (&pack.head, pack.blob.len() as u64));
    let mut all = Vec::new();
    for (block, it) in head.blocks().iter().enumerate() {
        let stored = &pack.blob[it.stored.start as usize..it.stored.end as usize];
        let plain = open_block(&head, block, stored).unwrap();
        let mut rest = &plain[..];
        for extent in head.extents(block) {
            let (part, after) = rest.split_at(extent.range.len() as usize);
            all.push((head.layers()[usize::from(extent.layer)], extent.range, part.to_vec()));
            rest = after;
        }
        assert!(rest.is_empty() && plain.len() as u64 <= BLOCK);
    }
    all
}

fn need() -> impl Strategy<Value = (usize, ByteRange)> {
    (0..SIZES.len(), 0.0..1.0, prop_oneof![Just(1u64), 1..5000u64, 1..200_000u64]).prop_map(
        |(layer, place, length)| {
            let start = (place * SIZES[layer] as f64) as u64;
            (layer, ByteRange::new(start, (start + length).min(SIZES[layer])))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_pack_has_each_needed_byte_once_in_the_block_of_its_first_need(
        needs in prop::collection::vec(need(), 1..16),
        share in 0.0..1.0,
    ) {
        let must_have = (share * needs.len() as f64) as usize;
        let pack = packed(&needs, must_have, None).unwrap();
        let (digests, tars) = layers();
        let extents = opened(&pack);
        // The model: records of 512 bytes in the order in which they are first needed.
        let mut model: Vec<(usize, u64)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        let mut before = 0;
        for (place, (layer, range)) in needs.iter().enumerate() {
            if place == must_have {
                before = model.len();
            }
            for record in range.start / 512..range.end.div_ceil(512) {
                if seen.insert((*layer, record)) {
                    model.push((*layer, record));
                }
            }
        }
        let mut records = Vec::new();
        let mut places = Vec::new();
        for (digest, range, bytes) in &extents {
            let layer = digests.iter().position(|layer| layer == digest).unwrap();
            prop_assert_eq!(&tars[layer][range.start as usize..range.end as usize], &bytes[..]);
            prop_assert!(range.start % 512 == 0 && (range.end % 512 == 0 || range.end == SIZES[layer]));
            records.extend((range.start / 512..range.end.div_ceil(512)).map(|record| (layer, record)));
            places.push((layer, *range));
        }
        // In the blocks they are sorted, and joined as far as they touch.
        let (mut behind, mut extent) = (0, 0);
        for block in 0..pack.head.blocks().len() {
            let of_block = &places[extent..extent + pack.head.extents(block).len()];
            let touch = |pair: &[(usize, ByteRange)]| pair[0].0 == pair[1].0 && pair[0].1.end >= pair[1].1.start;
            prop_assert!(of_block.is_sorted_by_key(|(layer, range)| (*layer, range.start)));
            prop_assert!(!of_block.windows(2).any(touch));
            let length: usize = of_block.iter().map(|(_, range)| range.len().div_ceil(512) as usize).sum();
            records[behind..behind + length].sort_unstable();
            model[behind..behind + length].sort_unstable();
            (behind, extent) = (behind + length, extent + of_block.len());
        }
        prop_assert_eq!(&records, &model);
        let first: usize = (0..pack.head.must_have())
            .flat_map(|block| pack.head.extents(block))
            .map(|extent| extent.range.len().div_ceil(512) as usize)
            .sum();
        prop_assert_eq!(first, before);
        pack.head.check_layers(|layer| SIZES.get(digests.iter().position(|one| one == layer)?).copied()).unwrap();
        prop_assert_eq!(packed(&needs, must_have, None).unwrap(), pack);
    }

    #[test]
    fn a_budget_cuts_the_end_and_nothing_else(needs in prop::collection::vec(need(), 1..16), share in 0.0..1.0) {
        let whole = packed(&needs, 3, None).unwrap();
        let budget = (share * whole.blob.len() as f64) as u64;
        match packed(&needs, 3, Some(budget)) {
            Err(PackBuildError::Budget(bytes)) => prop_assert_eq!(bytes, budget),
            Err(other) => prop_assert!(false, "{}", other),
            Ok(cut) => {
                prop_assert!(cut.blob.len() as u64 <= budget);
                let (kept, all) = (opened(&cut), opened(&whole));
                prop_assert_eq!(&kept[..], &all[..kept.len()]);
                prop_assert_eq!(cut.head.plain_size() + cut.cut, whole.head.plain_size());
                prop_assert_eq!(cut.head.must_have(), whole.head.must_have().min(cut.head.blocks().len()));
                prop_assert_eq!(cut.cut_must_have > 0, cut.head.must_have() < whole.head.must_have());
            }
        }
    }
}

#[test]
fn no_page_of_a_file_is_cut_in_two() {
    let range = |start, end| ByteRange::new(start, end);
    // Files begin at any record of the tar; here at 512 and 901 120.
    let needs =
        [(0, range(512, 1537)), (0, range(512 + 4096, 512 + 4096 * 201)), (0, range(901_120, 1_294_336))];
    let pack = packed(&needs, 3, None).unwrap();
    let blocks = pack.head.blocks().len();
    assert_eq!(blocks, 3);
    let ends = (0..blocks).map(|block| pack.head.extents(block).last().unwrap().range.end);
    let cuts: Vec<_> = ends.map(|end| (end % 4096, needs.iter().any(|(_, need)| need.end == end))).collect();
    assert_eq!(cuts, [(512, false), (0, false), (0, true)]);
}

#[test]
fn layers_that_are_left_out_are_not_listed_and_nothing_is_no_pack() {
    let needs = [(0, ByteRange::new(0, 10)), (1, ByteRange::new(0, 10)), (0, ByteRange::new(600, 700))];
    let (drafts, first) = lay_out(&needs, [2; 2], |layer| (layer == 1).then_some(1536)).unwrap();
    assert_eq!((drafts.len(), first), (1, 1));
    assert_eq!(drafts[0].extents, [Extent { layer: 1, range: ByteRange::new(0, 512) }]);
    let (none, _) = lay_out(&needs, [2; 2], |_| None).unwrap();
    let scratch = || Scratch::new(tempfile::tempfile().unwrap());
    let bytes = Bytes { layers: &[], scratch: &scratch() };
    let error = write(&Digest::of(b"image"), &[], &none, 0, &bytes, None, scratch()).unwrap_err();
    assert!(matches!(error, PackBuildError::Nothing));
    assert!(matches!(packed(&needs, 2, Some(100)), Err(PackBuildError::Budget(100))));
    assert_eq!(packed(&needs[1..2], 1, None).unwrap().head.layers(), [layers().0[1]]);
}

/// A head costs a compression of its table and digests of all blocks: it is not made for each block that a budget cuts.
#[test]
fn few_heads_are_made_for_a_budget() {
    let digest = Digest::of(b"block");
    let blocks = |number: u64| (0..number).map(|at| Stored { length: 1 + at * 7919 % 400_000, digest });
    let stored: Vec<Stored> = blocks(20_000).collect();
    // Longer than the digests alone: the table, too.
    let length = |kept: usize| 112 + kept * 55;
    let ends: Vec<u64> =
        (0..=stored.len()).map(|kept| stored[..kept].iter().map(|one| one.length).sum()).collect();
    for budget in [0, 100, 200, 1 << 20, 500 << 20, 3 << 30, u64::MAX] {
        let made = std::cell::Cell::new(0);
        let head = |kept| {
            made.set(made.get() + 1);
            Ok(vec![0; length(kept)])
        };
        let best = fitting_head(&stored, budget, head).unwrap().map(|(kept, head)| (kept, head.len()));
        let most = (1..=stored.len()).rfind(|&kept| length(kept) as u64 + ends[kept] <= budget);
        assert_eq!(best, most.map(|kept| (kept, length(kept))));
        assert!(made.get() <= 16, "{} heads for {budget}", made.get());
    }
}

/// What the format costs: ten thousand scattered pages, 40 MB.
#[test]
fn the_head_of_ten_thousand_extents_is_short() {
    let extents = (0..10_000u64).map(|at| {
        let start = at * 4096 * (1 + at * 7919 % 13) % (1 << 30) / 512 * 512;
        (at, start)
    });
    let mut taken = Coverage::default();
    let extents: Vec<Extent> = extents
        .filter_map(|(at, start)| {
            let range = ByteRange::new(start, start + 4096);
            (taken.add(range) == [range]).then_some(Extent { layer: (at % 3 % 2) as u16, range })
        })
        .collect();
    let blocks: Vec<head::Written> = extents
        .chunks(32)
        .map(|extents| head::Written {
            stored: 40_000,
            digest: Digest::of(format!("{extents:?}").as_bytes()),
            extents: extents.to_vec(),
        })
        .collect();
    let layers = [Digest::of(b"low"), Digest::of(b"high")];
    let bytes = head::encode(&Digest::of(b"image"), &layers, &blocks, 0, 19).unwrap();
    assert!(extents.len() > 5000 && bytes.len() < 60_000, "{} extents, {} bytes", extents.len(), bytes.len());
    assert_eq!(PackHead::open(&bytes).unwrap().all_extents(), extents);
}
