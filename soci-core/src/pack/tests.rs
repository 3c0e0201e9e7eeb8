//! Heads and blocks made by hand, right and wrong ones; each wrong one has its reason.

use super::{
    head::{HEADER, Written, encode},
    *,
};
use crate::{digest::Digest, units::ByteRange, varint::put_varint};

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

fn extent(layer: u16, start: u64, end: u64) -> Extent {
    Extent { layer, range: ByteRange { start, end } }
}

/// A block with these extents, and its stored bytes.
fn block(extents: &[Extent]) -> (Written, Vec<u8>) {
    let plain: Vec<u8> = extents
        .iter()
        .flat_map(|e| (e.range.start..e.range.end).map(move |at| (at * 7 + u64::from(e.layer)) as u8))
        .collect();
    let stored = zstd::bulk::compress(&plain, 3).unwrap();
    (Written { stored: stored.len() as u64, digest: Digest::of(&stored), extents: extents.to_vec() }, stored)
}

fn two_layers() -> Vec<Digest> {
    vec![digest("low"), digest("high")]
}

/// A head of two layers with these extents in its blocks, and the blocks.
fn pack(blocks: &[&[Extent]]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (written, stored): (Vec<_>, Vec<_>) = blocks.iter().map(|extents| block(extents)).unzip();
    (encode(&digest("image"), &two_layers(), &written, 1, 19).unwrap(), stored)
}

fn good() -> (Vec<u8>, Vec<Vec<u8>>) {
    pack(&[&[extent(1, 5120, 9216), extent(0, 0, 512)], &[extent(1, 512, 1024), extent(1, 100_000, 100_001)]])
}

/// A head whose table is this, of two layers; as long as if each block were stored in 5 bytes.
fn with_table(numbers: &[u64], blocks: usize, extents: u32) -> Vec<u8> {
    let mut table = Vec::new();
    for &number in numbers {
        put_varint(&mut table, number);
    }
    with_raw_table(&table, blocks, extents)
}

fn with_raw_table(table: &[u8], blocks: usize, extents: u32) -> Vec<u8> {
    let stored = zstd::bulk::compress(table, 1).unwrap();
    let none = Written { stored: 1, digest: digest("block"), extents: Vec::new() };
    let empty = encode(&digest("image"), &two_layers(), &vec![none; blocks], 0, 1).unwrap();
    let mut head = empty[..HEADER + 32 * (2 + blocks)].to_vec();
    head[12..16].copy_from_slice(&(stored.len() as u32).to_le_bytes());
    head[16..20].copy_from_slice(&(table.len() as u32).to_le_bytes());
    head[72..76].copy_from_slice(&extents.to_le_bytes());
    head.extend(stored);
    let size = (head.len() + 5 * blocks) as u64;
    head[24..32].copy_from_slice(&size.to_le_bytes());
    head
}

#[test]
fn a_head_reads_back_and_its_blocks_open() {
    let (bytes, stored) = good();
    let head = PackHead::open(&bytes).unwrap();
    assert_eq!((head.image(), head.layers(), head.must_have()), (digest("image"), &two_layers()[..], 1));
    assert_eq!(head.extents(0), [extent(1, 5120, 9216), extent(0, 0, 512)]);
    assert_eq!(head.extents(1), [extent(1, 512, 1024), extent(1, 100_000, 100_001)]);
    assert_eq!(head.extents(2), []);
    assert_eq!(head.head_size(), bytes.len() as u64);
    assert_eq!(
        (head.blocks()[0].stored.end, head.blocks()[1].stored.end),
        (head.blocks()[1].stored.start, head.size())
    );
    assert_eq!(open_block(&head, 0, &stored[0]).unwrap().len(), 4096 + 512);
    let second = open_block(&head, 1, &stored[1]).unwrap();
    assert_eq!((second.len(), second[512]), (513, (100_000u64 * 7 + 1) as u8));
    assert!(matches!(open_block(&head, 0, &stored[1]), Err(PackError::BlockLength { block: 0, .. })));
    let mut wrong = stored[1].clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert!(matches!(open_block(&head, 1, &wrong), Err(PackError::BlockDigest { block: 1, .. })));
    assert!(matches!(open_block(&head, 2, &stored[1]), Err(PackError::NoBlock(2))));
}

#[test]
fn layers_must_be_the_images() {
    let head = PackHead::open(&good().0).unwrap();
    let sizes = |high: u64| {
        move |layer: &Digest| match layer {
            layer if *layer == digest("low") => Some(512),
            layer if *layer == digest("high") => Some(high),
            _ => None,
        }
    };
    head.check_layers(sizes(100_001)).unwrap();
    assert!(matches!(head.check_layers(sizes(100_000)), Err(PackError::OutsideLayer { size: 100_000, .. })));
    let other = head.check_layers(|layer| (*layer == digest("low")).then_some(512));
    assert!(matches!(other, Err(PackError::ForeignLayer(layer)) if layer == digest("high")));
}

#[test]
fn a_cut_head_is_refused_at_every_length() {
    let (bytes, _) = good();
    for cut in 0..bytes.len() {
        let error = PackHead::open(&bytes[..cut]).unwrap_err();
        assert!(
            matches!(error, PackError::HeadShort { actual, .. } if actual == cut as u64),
            "{cut}: {error}"
        );
    }
    assert!(matches!(PackHead::open(&[&bytes[..], &[0]].concat()), Err(PackError::HeadTrailing(1))));
    assert!(matches!(PackHead::open(&vec![0; MAX_HEAD as usize + 1]), Err(PackError::HeadTooLarge(_))));
}

#[test]
fn a_head_with_a_flipped_bit_is_refused_or_still_whole() {
    let (bytes, _) = good();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            // What no length or limit can tell is what the head's own digest is for.
            let Ok(head) = PackHead::open(&flipped) else { continue };
            assert!(at >= 32, "bit {bit} of byte {at} says nothing");
            let mut end = bytes.len() as u64;
            for (block, it) in head.blocks().iter().enumerate() {
                assert_eq!(it.stored.start, end);
                end = it.stored.end;
                assert_eq!(it.plain_len(), head.extents(block).iter().map(|e| e.range.len()).sum::<u64>());
            }
            assert_eq!(end, head.size());
        }
    }
}

#[test]
fn each_wrong_header_has_its_reason() {
    let (bytes, _) = good();
    let changed = |at: usize, new: &[u8]| {
        let mut head = bytes.clone();
        head[at..at + new.len()].copy_from_slice(new);
        PackHead::open(&head).unwrap_err()
    };
    let huge = u32::MAX.to_le_bytes();
    assert!(matches!(changed(0, b"s"), PackError::Magic));
    assert!(matches!(changed(8, &[2]), PackError::Version(2)));
    assert!(matches!(changed(10, &[1]), PackError::Flags(1)));
    assert!(matches!(changed(12, &huge), PackError::TableTooLarge(_)));
    assert!(matches!(changed(16, &huge), PackError::TableTooLarge(_)));
    assert!(matches!(changed(16, &[1]), PackError::Table(_)), "the table is longer than announced");
    assert!(matches!(changed(16, &[200]), PackError::TableLength { expected: 200, .. }));
    assert!(matches!(changed(20, &huge), PackError::TooManyLayers(_)));
    assert!(matches!(changed(20, &[0]), PackError::Empty { layers: 0, .. }));
    assert!(matches!(changed(24, &[0]), PackError::Size { .. }));
    assert!(matches!(changed(64, &huge), PackError::Empty { .. }), "more blocks than extents");
    assert!(matches!(changed(64, &[0]), PackError::Empty { blocks: 0, .. }));
    assert!(matches!(changed(72, &huge), PackError::TooManyExtents(_)));
    assert!(matches!(changed(72, &[3]), PackError::ExtentCount { expected: 3, actual: 4 }));
    assert!(matches!(changed(72, &[5]), PackError::ExtentCount { expected: 5, actual: 4 }));
    assert!(matches!(changed(76, &[3]), PackError::MustHave { must_have: 3, blocks: 2 }));
    assert!(matches!(changed(80, digest("high").as_bytes()), PackError::DuplicateLayer(_)));
    let mut many = bytes.clone();
    many[64..68].copy_from_slice(&(MAX_BLOCKS as u32 + 1).to_le_bytes());
    many[72..76].copy_from_slice(&(MAX_BLOCKS as u32 + 1).to_le_bytes());
    assert!(matches!(PackHead::open(&many), Err(PackError::TooManyBlocks(_))));
}

#[test]
fn each_wrong_table_has_its_reason() {
    let open = |numbers: &[u64], blocks: usize, extents: u32| {
        PackHead::open(&with_table(numbers, blocks, extents)).unwrap_err()
    };
    // stored, extents; then layer, difference (folded), length
    let back = |by: u64| by * 2 - 1;
    assert!(matches!(open(&[0, 1, 0, 0, 9], 1, 1), PackError::StoredLength { stored: 0, .. }));
    assert!(matches!(open(&[MAX_STORED + 1, 1, 0, 0, 9], 1, 1), PackError::StoredLength { .. }));
    assert!(matches!(open(&[5, 0, 5, 2, 0, 0, 9, 1, 0, 9], 2, 2), PackError::EmptyBlock(0)));
    assert!(matches!(open(&[5, 1, 0, 0, MAX_BLOCK + 1], 1, 1), PackError::BlockTooLarge(0)));
    assert!(matches!(open(&[5, 1, 2, 0, 9], 1, 1), PackError::ExtentLayer { block: 0, layer: 2 }));
    assert!(matches!(open(&[5, 1, u64::MAX, 0, 9], 1, 1), PackError::ExtentLayer { .. }));
    assert!(matches!(open(&[5, 1, 0, 0, 0], 1, 1), PackError::EmptyExtent(0)));
    assert!(matches!(open(&[5, 1, 0, back(1), 9], 1, 1), PackError::ExtentRange(0)));
    assert!(matches!(open(&[5, 1, 0, 0, u64::MAX], 1, 1), PackError::ExtentRange(0)));
    assert!(matches!(open(&[5, 1, 0, u64::MAX - 1, 1], 1, 1), PackError::ExtentRange(0)));
    assert!(matches!(open(&[5, u64::MAX, 0, 0, 9], 1, 1), PackError::ExtentCount { .. }));
    assert!(matches!(open(&[5, 1, 0, 0, 9], 1, 1), PackError::UnusedLayer(layer) if layer == digest("high")));
    assert!(matches!(open(&[5, 1, 0, 0], 1, 1), PackError::TableMalformed(4)));
    assert!(matches!(open(&[5, 1, 0, 0, 9, 7], 1, 1), PackError::TableTrailing(1)));
    assert!(matches!(
        PackHead::open(&with_raw_table(&[0x85, 0, 1, 0, 0, 9], 1, 1)),
        Err(PackError::TableMalformed(0))
    ));
    let three = |second: [u64; 2]| open(&[5, 3, 0, 2048, 100, 1, 0, 9, 0, second[0], second[1]], 1, 3);
    let overlap = |error: PackError| match error {
        PackError::Overlap { layer, range } if layer == digest("low") => (range.start, range.end),
        other => panic!("{other}"),
    };
    assert_eq!(overlap(three([back(100), 100])), (1024, 1124), "the same bytes twice");
    assert_eq!(overlap(three([back(1), 5])), (1123, 1124));
    assert_eq!(overlap(three([back(1124), 1025])), (1024, 1025));
    let across = [5, 2, 0, 0, 10, 1, 0, 9, 5, 1, 0, back(3), 9];
    assert_eq!(overlap(open(&across, 2, 3)), (7, 10), "in another block");
    let blocks = (MAX_PLAIN / MAX_BLOCK) as usize + 1;
    let most: Vec<u64> = (0..blocks).flat_map(|at| [5, 1, (at % 2) as u64, 0, MAX_BLOCK]).collect();
    assert!(matches!(open(&most, blocks, blocks as u32), PackError::TooLarge));
}

/// A head that pins these stored bytes for a block of one extent of so many bytes.
fn pinned(stored: &[u8], plain: u64) -> PackHead {
    let written = Written {
        stored: stored.len() as u64,
        digest: Digest::of(stored),
        extents: vec![extent(0, 0, plain)],
    };
    PackHead::open(&encode(&digest("image"), &two_layers()[..1], &[written], 0, 1).unwrap()).unwrap()
}

#[test]
fn a_block_gives_exactly_its_extents_or_nothing() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let error = open_block(&pinned(&bomb, 4096), 0, &bomb).unwrap_err();
    assert!(matches!(error, PackError::BlockDamaged { block: 0, plain: 4096, .. }), "{error}");
    let short = zstd::bulk::compress(&[7; 100], 1).unwrap();
    assert!(matches!(
        open_block(&pinned(&short, 101), 0, &short),
        Err(PackError::BlockShort { block: 0, plain: 101, actual: 100 })
    ));
    for stored in [&b"not zstd"[..], &[&short[..], b"more"].concat(), &short[..short.len() - 1]] {
        assert!(matches!(open_block(&pinned(stored, 100), 0, stored), Err(PackError::BlockDamaged { .. })));
    }
}
