//! Fine indexes of which something is wrong or cannot be had: the layer is served with its zTOC, or a read fails and is right
//! later; no byte is wrong.

use harness::companions::{FineParts, PutFine, REPOSITORY, list_in_image};
use harness::faults::{Fault, When};
use harness::image::{LayerSource, publish};
use harness::pack_lab::{COARSE, FILE, FINE, Lab, tar, two_layers};
use harness::registry::TestRegistry;
use soci_core::digest::Digest;
use soci_core::registry::{HostPolicy, Registry, RegistryOptions, Server};
use soci_core::ztoc::Bundle;

#[test]
fn a_wrong_window_is_an_error_that_is_not_remembered() {
    let lab = Lab::new(two_layers());
    let windows = lab.put_fine().windows[0].unwrap();
    let here = lab.start(|options| options.spans.read_ahead = 0);
    for fault in [
        Fault::Corrupt,
        Fault::Truncate(100),
        Fault::Status(404, None),
        Fault::Status(500, None),
        Fault::ShiftContentRange(1),
    ] {
        lab.registry.faults().add(When::path(windows.to_string()), fault.clone());
        let error = here.read(0, 5 * FINE, 5 * FINE + 10).unwrap_err();
        assert!(error.contains("Window") || error.contains("Fetch"), "{fault:?}: {error}");
        assert_eq!(here.layers[0].cached_size(), 0, "{fault:?}: nothing unchecked is kept");
        lab.registry.faults().clear();
    }
    lab.registry.faults().add(When::path(windows.to_string()), Fault::Corrupt);
    here.check(0, 0, 3 * FINE);
    here.check(1, 0, FILE as u64);
    lab.registry.faults().clear();
    here.check_all();
}

/// Changes a companion before it is published.
type Change = fn(&Lab, &mut FineParts) -> Option<Vec<u8>>;

/// Companions that cannot be used, each as a change of good ones; and the layers whose zTOCs are then fetched.
const UNFIT: &[(&str, Change, [bool; 2])] = &[
    (
        "table of layer 0 is damaged",
        |_, fine| {
            let mut table = fine.tables[0].1.to_vec();
            *table.last_mut().unwrap() ^= 1;
            fine.tables[0].1 = table.into();
            None
        },
        [true, false],
    ),
    (
        "layer 0 has the table of layer 1",
        |_, fine| {
            fine.tables[0].1 = fine.tables[1].1.clone();
            None
        },
        [true, false],
    ),
    (
        "table of layer 0 is a zTOC",
        |lab, fine| {
            fine.tables[0].1 = lab.image.ztocs[0].clone().into();
            None
        },
        [true, false],
    ),
    (
        "layer 1 has no table",
        |_, fine| {
            fine.tables.truncate(1);
            None
        },
        [false, true],
    ),
    (
        "windows of layer 1 are not listed",
        |_, fine| {
            fine.windows[1] = None;
            None
        },
        [false, true],
    ),
    (
        "windows of layer 1 are others",
        |_, fine| {
            let mut windows = fine.windows[1].as_ref().unwrap().to_vec();
            windows[70] ^= 1;
            fine.windows[1] = Some(windows.into());
            None
        },
        [false, true],
    ),
    ("the bundle is cut", |_, fine| Some(Bundle::encode(&fine.tables)[..1000].to_vec()), [true, true]),
    ("the bundle is none", |_, _| Some(b"no bundle".to_vec()), [true, true]),
    (
        "it is of another image",
        |_, fine| {
            fine.image = Digest::of(b"another image");
            None
        },
        [true, true],
    ),
];

#[test]
fn a_companion_that_does_not_fit_costs_the_ztoc_only() {
    for (name, change, asked) in UNFIT {
        let lab = Lab::new(two_layers());
        let mut parts = lab.fine();
        let bundle = change(&lab, &mut parts);
        let bundle = bundle.unwrap_or_else(|| Bundle::encode(&parts.tables));
        let put = parts.put_with(&lab.registry, bundle);
        // Whoever lists it lies, too.
        list_in_image(&lab.registry, &lab.image, &[&put.descriptor]);
        let here = lab.start(|_| {});
        assert_eq!(here.fine(), asked.map(|asked| !asked), "{name}");
        here.check_all();
        assert_eq!(lab.ztocs_asked(), *asked, "{name}");
    }
}

#[test]
fn a_companion_that_cannot_be_fetched_costs_the_ztoc_only() {
    let part: &[fn(&PutFine) -> Digest] = &[|put| put.descriptor.digest, |put| put.bundle];
    for part in part {
        for fault in [Fault::Corrupt, Fault::Truncate(50), Fault::Status(404, None), Fault::Status(500, None)]
        {
            let lab = Lab::new(two_layers());
            let put = lab.put_fine();
            lab.registry.faults().add(When::path(part(&put).to_string()), fault.clone());
            let here = lab.start(|_| {});
            assert_eq!(here.fine(), [false; 2], "{fault:?}");
            here.check_all();
            lab.registry.faults().clear();
            drop(here);
            let here = lab.start(|_| {});
            assert_eq!(here.fine(), [true; 2], "after {fault:?}");
            here.check_all();
        }
    }
}

#[test]
fn a_table_that_lies_about_its_layer_gives_errors_and_no_byte() {
    // Two layers of one size, and the table of the second with the name of the first.
    let [first, second] = [tar(1), tar(2)].map(|tar| {
        let gzip = harness::image::gzip(&tar, 0);
        (LayerSource { gzip, diff_id: Some(Digest::of(&tar)), ..LayerSource::default() }, tar)
    });
    let lab = Lab::new(vec![first, second]);
    let mut parts = lab.fine();
    let mut table = parts.tables[1].1.to_vec();
    table[16..48].copy_from_slice(lab.image.layers[0].as_bytes());
    parts.tables[0].1 = table.into();
    parts.windows[0] = parts.windows[1].clone();
    parts.put(&lab.registry);
    let here = lab.start(|_| {});
    assert_eq!(here.fine(), [true; 2]);
    let error = here.read(0, 5 * FINE, 5 * FINE + 10).unwrap_err();
    assert!(error.contains("Digest"), "{error}");
    assert_eq!(here.layers[0].cached_size(), 0);
    here.check(1, 0, FILE as u64);
}

#[test]
fn a_window_is_fetched_again_as_often_as_configured() {
    let lab = Lab::new(two_layers());
    let windows = lab.put_fine().windows[0].unwrap();
    let here = lab.start(|options| options.spans.verification_retries = 2);
    let bad = |times| lab.registry.faults().add_times(When::path(windows.to_string()), Fault::Corrupt, times);
    bad(2);
    here.check(0, 5 * FINE, 5 * FINE + 10);
    assert_eq!(lab.ranges(&windows), 3);
    bad(3);
    assert!(here.read(0, 10 * FINE, 10 * FINE + 10).is_err());
    assert_eq!(lab.ranges(&windows), 6);
    here.check(0, 10 * FINE, 10 * FINE + 10);
}

#[test]
fn a_mirror_with_wrong_windows_is_replaced_by_the_registry() {
    let lab = Lab::new(two_layers());
    let put = lab.put_fine();
    let mirror = TestRegistry::start();
    publish(&mirror, REPOSITORY, &lab.sources, COARSE);
    lab.fine().put(&mirror);
    let windows = put.windows[0].unwrap();
    mirror.faults().add(When::path(windows.to_string()), Fault::Corrupt);
    let here = lab.start(|options| {
        let server = Server::parse(&format!("http://{}", mirror.host())).unwrap();
        let mirrors = [(lab.registry.host(), vec![server])].into();
        let hosts = HostPolicy { mirrors, ..HostPolicy::default() };
        options.registry = Registry::new(RegistryOptions { hosts, ..RegistryOptions::default() });
    });
    assert_eq!((here.fine(), lab.registry.requests()), (vec![true; 2], vec![]));
    for at in [5 * FINE, 10 * FINE] {
        here.check(0, at, at + 10);
    }
    let at_mirror =
        mirror.requests().iter().filter(|asked| asked.path.contains(&windows.to_string())).count();
    assert_eq!((at_mirror, lab.ranges(&windows)), (1, 2), "it is asked once");
}

#[test]
fn a_list_of_referrers_that_cannot_be_had_costs_the_ztoc_only() {
    for fault in [Fault::Status(500, None), Fault::Status(403, None), Fault::Corrupt, Fault::Truncate(10)] {
        let lab = Lab::new(two_layers());
        lab.put_fine();
        lab.registry.faults().add(When::path("/referrers/"), fault.clone());
        let here = lab.start(|_| {});
        assert_eq!(here.fine(), [false; 2], "{fault:?}");
        here.check_all();
    }
}

#[test]
fn a_layer_does_not_wait_for_ever_for_a_list_of_referrers() {
    let lab = Lab::new(two_layers());
    lab.put_fine();
    lab.registry.faults().add(When::path("/referrers/"), Fault::Hang);
    lab.start(|_| {}).check_all();
}
