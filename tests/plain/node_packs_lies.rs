//! Packs with wrong bytes and right digests: only a span can tell, and when one does, all that the pack has brought is
//! forgotten.

use harness::companions::PackParts;
use harness::faults::{Fault, When};
use harness::pack_lab::{FILE, Lab, Running, background, two_layers};
use harness::patience::eventually;
use soci_core::pack::Extent;
use soci_core::pack::testing::{ForgedBlock, forged};
use soci_core::units::ByteRange;

/// Bytes of each layer that the pack has.
const PACKED: (u64, u64) = (204_800, 266_240);
/// Which of them is wrong in the first layer.
const WRONG: u64 = 250_001;

/// Two layers and a pack that lies about the first.
fn lab() -> Lab {
    let lab = Lab::new(two_layers());
    lab.put_fine();
    let blocks = [0u16, 1].map(|layer| {
        let (start, end) = (PACKED.0 as usize, PACKED.1 as usize);
        let mut plain = lab.tars[usize::from(layer)][start..end].to_vec();
        if layer == 0 {
            plain[WRONG as usize - start] ^= 0xff;
        }
        let extent = Extent { layer, range: ByteRange::new(PACKED.0, PACKED.1) };
        ForgedBlock::of_plain(&[extent], &plain)
    });
    let (blob, head) = forged(&lab.image.manifest, &lab.image.layers, &blocks);
    PackParts::of_blob(lab.image.manifest, blob, head).put(&lab.registry);
    lab
}

/// What nobody can know yet: the wrong byte is served, the rest is right.
fn check_lie(lab: &Lab, here: &Running) {
    let read = here.read(0, PACKED.0, PACKED.1).unwrap();
    let truth = &lab.tars[0][PACKED.0 as usize..PACKED.1 as usize];
    let differ: Vec<_> = (0..truth.len()).filter(|at| read[*at] != truth[*at]).collect();
    assert_eq!(differ, [(WRONG - PACKED.0) as usize]);
    here.check(1, PACKED.0, PACKED.1);
}

fn any_packed(here: &Running) -> Vec<bool> {
    let whole = |layer: usize| ByteRange::new(0, here.layers[layer].uncompressed_size());
    (0..here.layers.len()).map(|layer| here.layers[layer].spans().cache().any_packed(whole(layer))).collect()
}

#[test]
fn one_span_that_differs_makes_all_layers_forget_the_pack() {
    let lab = lab();
    let here = lab.start(|options| options.spans.read_ahead = 0);
    here.packed();
    check_lie(&lab, &here);
    assert_eq!(lab.layer_ranges(), 0);

    // A read beside the packed bytes brings the span that has the wrong one.
    let table = here.layers[0].spans().ztoc().spans();
    let span = table.spans_covering(ByteRange::new(WRONG, WRONG + 1)).next().unwrap();
    let end = here.span(0, span).end;
    assert!(end > PACKED.1, "the span ends behind the packed bytes");
    here.check(0, end - 1, end);
    eventually("the span is compared", || here.node.stats.pack_mismatches.get() == 1);
    eventually("everything is forgotten", || any_packed(&here) == [false, false]);
    assert_eq!(here.layers[1].spans().states().cached(), 0, "the other layer was not compared itself");

    here.check(0, PACKED.0, PACKED.1);
    here.check(1, PACKED.0, PACKED.1);
    assert!(lab.ranges(&lab.image.layers[1]) > 0, "its bytes are fetched");
    here.check_all();
    assert_eq!(here.node.stats.pack_mismatches.get(), 1);
}

#[test]
fn a_pack_that_is_found_out_while_it_arrives_is_dropped() {
    let lab = Lab::new(two_layers());
    lab.put_fine();
    // Block by block a piece of each layer; only the first block lies.
    let piece = |at: u64, layer: u16| {
        let (start, end) = (at * 32_768, at * 32_768 + 16_384);
        let mut plain = lab.tars[usize::from(layer)][start as usize..end as usize].to_vec();
        if (at, layer) == (0, 0) {
            plain[5000] ^= 0xff;
        }
        ForgedBlock::of_plain(&[Extent { layer, range: ByteRange::new(start, end) }], &plain)
    };
    let blocks: Vec<_> = (0..30).flat_map(|at| [piece(at, 0), piece(at, 1)]).collect();
    let (blob, head) = forged(&lab.image.manifest, &lab.image.layers, &blocks);
    let pack = PackParts::of_blob(lab.image.manifest, blob, head).put(&lab.registry);
    lab.registry.faults().add(When::path(pack.blob.to_string()), Fault::Throttle(400_000));
    let here = lab.start(|_| {});
    eventually("the lie is here", || here.node.stats.pack_blocks.get() >= 2);
    assert_ne!(here.read(0, 5000, 5001).unwrap(), lab.tars[0][5000..5001]);
    here.check(0, 17_000, 17_001);
    eventually("the pack is dropped", || here.node.stats.pack_failures.get() == 1);
    assert_eq!((here.node.stats.packs.get(), here.node.stats.pack_mismatches.get()), (0, 1));
    assert!(here.node.stats.pack_blocks.get() < blocks.len() as u64);
    assert_eq!(any_packed(&here), [false; 2]);
    here.check_all();
    assert_eq!(lab.requests(&pack.blob).len(), 1);
}

#[test]
fn the_background_class_finds_the_lie() {
    let lab = lab();
    let here = lab.start(background);
    eventually("the lie is found", || here.node.stats.pack_mismatches.get() == 1);
    let all = |here: &Running| {
        let mut layers = here.layers.iter();
        layers.all(|layer| layer.spans().states().cached() == layer.spans().ztoc().spans().len())
    };
    eventually("all is checked", || all(&here));
    here.check_all();
    assert_eq!(any_packed(&here), [false; 2]);
}

#[test]
fn a_restart_between_lie_and_truth_changes_nothing() {
    let lab = lab();
    let here = lab.start(|_| {});
    here.packed();
    check_lie(&lab, &here);
    drop(here);

    let here = lab.start(|_| {});
    here.packed();
    check_lie(&lab, &here);
    assert_eq!((lab.layer_ranges(), any_packed(&here)), (0, vec![true; 2]));
    drop(here);

    let here = lab.start(|options| {
        background(options);
        options.pack.enable = false;
    });
    eventually("the lie is found", || here.node.stats.pack_mismatches.get() == 1);
    eventually("all is checked", || any_packed(&here) == [false; 2]);
    here.check_all();
    drop(here);

    let here = lab.start(|options| options.pack.enable = false);
    here.check_all();
    assert_eq!(any_packed(&here), [false; 2]);
    here.check(0, 0, FILE as u64);
}

#[test]
fn bytes_that_were_checked_are_never_replaced_by_a_pack() {
    let lab = lab();
    let here = lab.start(|options| options.pack.enable = false);
    here.check(0, 0, FILE as u64);
    drop(here);
    let here = lab.start(|_| {});
    here.packed();
    here.check(0, 0, FILE as u64);
    assert_eq!(here.node.stats.pack_mismatches.get(), 0);
    assert_eq!(any_packed(&here), [false, true]);
}
