//! Packs that cannot be had or are not valid: the image starts as if there were none, no byte is wrong, and what was checked
//! before is kept.

use harness::companions::{PackParts, PutPack, list_in_image};
use harness::faults::{Fault, When};
use harness::image::LayerSource;
use harness::pack_lab::{Lab, Running, artifact, tar};
use harness::patience::eventually;
use soci_core::digest::Digest;
use soci_core::pack::testing::{ForgedBlock, forged};
use soci_core::pack::{Extent, Purpose};
use soci_core::units::ByteRange;

/// Plain bytes of a block of a good pack here, and how many there are.
const BLOCK: u64 = 16 << 10;
const BLOCKS: u64 = 20;

/// An image of one layer, with a prefetch artifact.
fn lab() -> Lab {
    let tar = tar(1);
    let source = LayerSource { artifact: Some(artifact()), ..LayerSource::of_tar(&tar) };
    let lab = Lab::new(vec![(source, tar)]);
    lab.put_fine();
    lab
}

fn extent(start: u64, end: u64) -> Extent {
    Extent { layer: 0, range: ByteRange::new(start, end) }
}

/// The plain bytes in block `at` of a good pack.
fn range(at: u64) -> (u64, u64) {
    (at * 2 * BLOCK, at * 2 * BLOCK + BLOCK)
}

/// The blocks of a good pack.
fn blocks(lab: &Lab) -> Vec<ForgedBlock> {
    let block = |at| {
        let (start, end) = range(at);
        ForgedBlock::of_plain(&[extent(start, end)], &lab.tars[0][start as usize..end as usize])
    };
    (0..BLOCKS).map(block).collect()
}

fn parts(lab: &Lab, blocks: &[ForgedBlock]) -> PackParts {
    let (blob, head) = forged(&lab.image.manifest, &lab.image.layers, blocks);
    PackParts::of_blob(lab.image.manifest, blob, head)
}

/// Changes a good pack's blocks.
fn with_blocks(lab: &Lab, change: impl FnOnce(&mut Vec<ForgedBlock>)) -> PackParts {
    let mut blocks = blocks(lab);
    change(&mut blocks);
    parts(lab, &blocks)
}

/// A start whose pack fails goes on with the artifacts, and every byte is right.
fn check_failed(name: &str, lab: &Lab, here: &Running, failures: u64) {
    eventually(name, || here.node.stats.prefetch_artifacts.get() == 1);
    assert_eq!((here.node.stats.packs.get(), here.node.stats.pack_failures.get()), (0, failures), "{name}");
    assert!(lab.artifacts_asked(), "{name}");
    here.check_all();
    assert_eq!(here.node.stats.pack_mismatches.get(), 0, "{name}");
    assert_eq!(here.fine(), [true], "{name}");
}

#[test]
fn the_good_pack_of_these_tests_is_good() {
    let lab = lab();
    parts(&lab, &blocks(&lab)).put(&lab.registry);
    let here = lab.start(|_| {});
    here.packed();
    for at in 0..BLOCKS {
        here.check(0, range(at).0, range(at).1);
    }
    assert_eq!((here.node.stats.pack_blocks.get(), lab.layer_ranges()), (BLOCKS, 0));
    here.check_all();
}

type Make = fn(&Lab) -> PackParts;

/// Packs of which nothing may be used.
const NOTHING: &[(&str, Make)] = &[
    ("the head has another digest", |lab| PackParts {
        head_digest: Digest::of(b"head"),
        ..parts(lab, &blocks(lab))
    }),
    ("the head is longer", |lab| {
        let good = parts(lab, &blocks(lab));
        PackParts::of_blob(lab.image.manifest, good.blob.to_vec(), good.head_size + 1)
    }),
    ("the head is shorter", |lab| {
        let good = parts(lab, &blocks(lab));
        PackParts::of_blob(lab.image.manifest, good.blob.to_vec(), good.head_size - 1)
    }),
    ("the head is none", |lab| PackParts::of_blob(lab.image.manifest, vec![7; 5000], 1000)),
    ("the blob has more behind", |lab| {
        let good = parts(lab, &blocks(lab));
        PackParts::of_blob(lab.image.manifest, [&good.blob[..], &[0]].concat(), good.head_size)
    }),
    ("the blob is cut", |lab| {
        let good = parts(lab, &blocks(lab));
        PackParts::of_blob(lab.image.manifest, good.blob[..good.blob.len() - 1].to_vec(), good.head_size)
    }),
    ("it is of another image", |lab| {
        let (blob, head) = forged(&Digest::of(b"another image"), &lab.image.layers, &blocks(lab));
        PackParts::of_blob(lab.image.manifest, blob, head)
    }),
    ("it names a layer of another image", |lab| {
        let layers = [lab.image.layers[0], Digest::of(b"another layer")];
        let mut blocks = blocks(lab);
        let foreign = Extent { layer: 1, range: ByteRange::new(0, 4096) };
        blocks.push(ForgedBlock::of_plain(&[foreign], &[1; 4096]));
        let (blob, head) = forged(&lab.image.manifest, &layers, &blocks);
        PackParts::of_blob(lab.image.manifest, blob, head)
    }),
    ("an extent ends behind the layer", |lab| {
        with_blocks(lab, |blocks| {
            let end = lab.tars[0].len() as u64;
            blocks.push(ForgedBlock::of_plain(&[extent(end - 100, end + 1)], &[0; 101]));
        })
    }),
    ("an extent is far away", |lab| {
        with_blocks(lab, |blocks| {
            blocks.push(ForgedBlock::of_plain(&[extent(1 << 60, (1 << 60) + 1)], &[0]));
        })
    }),
    ("a block is there twice", |lab| with_blocks(lab, |blocks| blocks.push(blocks[3].clone()))),
    ("a byte is in two extents", |lab| {
        with_blocks(lab, |blocks| {
            let start = range(3).1 - 1;
            blocks.push(ForgedBlock::of_plain(&[extent(start, start + 10)], &[0; 10]));
        })
    }),
    ("a block is empty", |lab| with_blocks(lab, |blocks| blocks.push(ForgedBlock::of_plain(&[], &[])))),
    ("a block has more than a block may", |lab| {
        with_blocks(lab, |blocks| {
            *blocks =
                vec![ForgedBlock::of_plain(&[extent(0, 1 << 20), extent(1 << 20, (1 << 20) + 1)], &[0; 5])];
        })
    }),
];

#[test]
fn nothing_is_used_of_a_pack_whose_head_is_not_in_order() {
    for (name, make) in NOTHING {
        let lab = lab();
        make(&lab).put(&lab.registry);
        let here = lab.start(|_| {});
        check_failed(name, &lab, &here, 1);
        assert_eq!((here.node.stats.pack_blocks.get(), here.node.stats.pack_hits.get()), (0, 0), "{name}");
    }
}

/// Packs with a bad block, number 10.
const BAD_BLOCK: &[(&str, Make)] = &[
    ("its stored bytes are others", |lab| {
        with_blocks(lab, |blocks| {
            blocks[10].digest = Some(Digest::of(&blocks[10].stored));
            *blocks[10].stored.last_mut().unwrap() ^= 1;
        })
    }),
    ("its digest is that of another block", |lab| {
        with_blocks(lab, |blocks| blocks[10].digest = Some(Digest::of(&blocks[11].stored)))
    }),
    ("its stored bytes are those of another block", |lab| {
        with_blocks(lab, |blocks| {
            blocks[10].digest = Some(Digest::of(&blocks[10].stored));
            blocks[10].stored = blocks[11].stored.clone();
        })
    }),
    ("it holds a gigabyte", |lab| {
        with_blocks(lab, |blocks| {
            let bomb = zstd::stream::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 30), 1);
            blocks[10].stored = bomb.unwrap();
        })
    }),
    ("it holds one byte more", |lab| {
        with_blocks(lab, |blocks| {
            let (start, end) = range(10);
            let plain = &lab.tars[0][start as usize..=end as usize];
            blocks[10] = ForgedBlock::of_plain(&[extent(start, end)], plain);
        })
    }),
    ("it holds one byte less", |lab| {
        with_blocks(lab, |blocks| {
            let (start, end) = range(10);
            let plain = &lab.tars[0][start as usize..end as usize - 1];
            blocks[10] = ForgedBlock::of_plain(&[extent(start, end)], plain);
        })
    }),
    ("it is no zstd", |lab| with_blocks(lab, |blocks| blocks[10].stored = vec![0x55; 1000])),
];

#[test]
fn what_comes_before_a_bad_block_is_kept_and_the_rest_comes_from_spans() {
    for (name, make) in BAD_BLOCK {
        let lab = lab();
        make(&lab).put(&lab.registry);
        // One block after the other: those before the bad one are written when it is looked at.
        let here = lab.start(|options| {
            options.engine.inflate_threads = 1;
            options.prefetch = false;
        });
        eventually(name, || here.node.stats.pack_failures.get() == 1);
        let blocks = here.node.stats.pack_blocks.get();
        assert!((10..BLOCKS).contains(&blocks), "{name}: {blocks} blocks");
        for at in 0..10 {
            here.check(0, range(at).0, range(at).1);
        }
        assert_eq!((lab.layer_ranges(), here.node.stats.packs.get()), (0, 0), "{name}");
        here.check(0, range(10).0, range(10).1);
        assert_eq!(lab.layer_ranges(), 1, "{name}: nothing of the bad block is there");
        here.check_all();
        assert_eq!(here.node.stats.pack_mismatches.get(), 0, "{name}");
        drop(here);

        // All of it is here now, so there is nothing to bring.
        let here = lab.start(|_| {});
        here.packed();
        here.check_all();
        assert_eq!(here.node.stats.pack_bytes.get(), 0, "{name}");
    }
}

#[test]
fn blocks_in_another_order_are_a_pack_too() {
    let lab = lab();
    with_blocks(&lab, |blocks| blocks.reverse()).put(&lab.registry);
    let here = lab.start(|_| {});
    here.packed();
    for at in 0..BLOCKS {
        here.check(0, range(at).0, range(at).1);
    }
    assert_eq!(lab.layer_ranges(), 0);
    here.check_all();
    assert_eq!(here.node.stats.pack_mismatches.get(), 0);
}

#[test]
fn a_pack_that_the_registry_does_not_give_costs_nothing_but_itself() {
    let faults: &[fn(&Lab, &PutPack)] = &[
        |lab, pack| lab.registry.remove_blob(&pack.blob),
        |lab, pack| lab.registry.faults().add(When::path(pack.blob.to_string()), Fault::Status(500, None)),
        |lab, pack| lab.registry.faults().add(When::path(pack.blob.to_string()), Fault::Status(403, None)),
        |lab, pack| lab.registry.faults().add(When::path(pack.blob.to_string()), Fault::Truncate(0)),
        |lab, pack| lab.registry.faults().add(When::path(pack.blob.to_string()), Fault::Truncate(100)),
        |lab, pack| lab.registry.faults().add(When::path(pack.blob.to_string()), Fault::Stall(100)),
        |lab, pack| lab.registry.faults().add(When::path(pack.blob.to_string()), Fault::Corrupt),
        |lab, pack| lab.registry.faults().add(When::path(pack.blob.to_string()), Fault::Hang),
    ];
    std::thread::scope(|scope| {
        for (number, fault) in faults.iter().enumerate() {
            scope.spawn(move || {
                let lab = lab();
                let pack = parts(&lab, &blocks(&lab)).put(&lab.registry);
                fault(&lab, &pack);
                let here = lab.start(|_| {});
                here.check(0, range(3).0, range(3).1);
                check_failed(&format!("fault {number}"), &lab, &here, 1);
            });
        }
    });
}

#[test]
fn a_pack_that_breaks_off_once_goes_on() {
    let lab = lab();
    let pack = parts(&lab, &blocks(&lab)).put(&lab.registry);
    lab.registry.faults().add_times(When::path(pack.blob.to_string()), Fault::Truncate(100_000), 1);
    let here = lab.start(|_| {});
    here.packed();
    assert_eq!((lab.requests(&pack.blob).len(), lab.layer_ranges()), (2, 0));
    here.check_all();
}

#[test]
fn a_manifest_of_another_image_is_not_used() {
    let lab = lab();
    let other = PackParts { image: Digest::of(b"another image"), ..parts(&lab, &blocks(&lab)) };
    let pack = other.put(&lab.registry);
    let fine = lab.put_fine();
    list_in_image(&lab.registry, &lab.image, &[&fine.descriptor, &pack.descriptor]);
    let here = lab.start(|options| options.pack.referrers = false);
    check_failed("another image", &lab, &here, 0);
    assert_eq!((lab.requests(&pack.descriptor.digest).len(), lab.requests(&pack.blob).len()), (1, 0));
}

#[test]
fn a_pack_that_cannot_be_used_leaves_its_place_to_the_next() {
    let lab = lab();
    let good = PackParts {
        purpose: Purpose { workload: Some("good".into()), ..Purpose::default() },
        ..parts(&lab, &blocks(&lab))
    }
    .put(&lab.registry);
    let parts = PackParts { head_size: 1, head_digest: Digest::of(b"x"), ..parts(&lab, &blocks(&lab)) };
    // A blob over the limit: told by the manifest, so nothing of it is fetched.
    let big = PackParts { blob: [&parts.blob[..], &vec![0; 100_000]].concat().into(), ..parts };
    let big = big.put(&lab.registry);
    let limit = lab.registry.blob(&good.blob).unwrap().len() as u64;
    let here = lab.start(|options| options.pack.max_bytes = limit);
    here.packed();
    assert_eq!((lab.requests(&big.blob).len(), lab.requests(&good.blob).len()), (0, 1));
    here.check_all();
}
