//! Which pack each start of an image gets, and what is told of it: the record of a start has every byte of the link.

use std::sync::Arc;
use std::time::Duration;

use harness::companions::PackParts;
use harness::faults::{Fault, When};
use harness::pack_lab::{Lab, two_layers};
use harness::patience::eventually;
use snapshotter::choice::{Chooser, Launch, Program, Rule, WORKLOAD};
use snapshotter::image::Companions;
use soci_core::digest::Digest;
use soci_core::pack::Purpose;

/// Two packs of one image, for `web` and for `job`, and what each has.
fn two_packs() -> (Lab, [Digest; 2]) {
    let lab = Lab::new(two_layers());
    lab.put_fine();
    let put = |workload: &str, needs: &[(usize, u64, u64)]| {
        let purpose = Purpose { workload: Some(workload.to_owned()), ..Purpose::default() };
        PackParts { purpose, ..lab.pack(needs) }.put(&lab.registry).blob
    };
    let packs = [put("web", WEB), put("job", JOB)];
    (lab, packs)
}

const WEB: &[(usize, u64, u64)] = &[(0, 8192, 204_800), (1, 4096, 65_536)];
const JOB: &[(usize, u64, u64)] = &[(0, 401_408, 606_208), (1, 700_416, 802_816)];

/// A container of the image that a client asks for with these labels.
fn launch(lab: &Lab, labels: &[(&str, &str)]) -> Launch {
    let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned()));
    let image = lab.image.reference.parse::<soci_core::registry::Reference>().unwrap().whole();
    Launch { image, digest: lab.image.manifest, namespace: "k8s.io".to_owned(), labels: labels.collect() }
}

#[test]
fn each_container_gets_the_pack_of_its_workload_however_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("chooser");
    std::fs::write(&program, "#!/bin/sh\nread asked\ncase $asked in *tier*) echo '{\"workload\": \"job\"}';; *) echo '{}';; esac\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let rule = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        Rule::new("127.0.0.1:*", "k8s.io", &labels, "job".to_owned()).unwrap()
    };
    let by_rule = Chooser::new(vec![rule(&[("tier", "batch*")])], None, "web".to_owned());
    let by_program =
        Chooser::new(Vec::new(), Some(Program::new(program, Duration::from_secs(20))), "web".to_owned());
    for (chooser, first, second, by) in [
        (Chooser::new(Vec::new(), None, "web".to_owned()), &[][..], &[(WORKLOAD, "job")][..], "label"),
        (by_rule, &[("tier", "front")], &[("tier", "batch-7")], "rule 1"),
        (by_program, &[("none", "x")], &[("tier", "batch")], "chooser"),
    ] {
        let (lab, [web, job]) = two_packs();
        let here = lab.start(|options| options.pack.chooser = Arc::clone(&chooser));
        here.packed();
        assert_eq!((lab.requests(&web).len(), lab.requests(&job).len()), (1, 0), "{by}: that of the pull");
        for &(layer, start, end) in WEB {
            here.check(layer, start, end);
        }
        assert_eq!(lab.layer_ranges(), 0, "{by}: what is in the pack");
        let starts = |labels: &[(&str, &str)]| {
            here.node.runtime.block_on(here.image.container_starts(&launch(&lab, labels)))
        };
        let web_again = starts(first).unwrap();
        assert_eq!((web_again.0.as_str(), lab.requests(&web).len()), ("web", 1), "{by}: it is here");
        // As soon as this is told readers wait for the pack.
        assert_eq!(starts(second), Some(("job".to_owned(), by.to_owned())));
        for &(layer, start, end) in JOB {
            here.check(layer, start, end);
        }
        assert_eq!((lab.layer_ranges(), lab.requests(&job).len()), (0, 1), "{by}: spans beside its pack");
        eventually("both packs are here", || here.node.stats.packs.get() == 2);
        assert_eq!(starts(second), Some(("job".to_owned(), by.to_owned())));
        assert_eq!(lab.requests(&job).len(), 1, "{by}: once");
    }
}

#[test]
fn a_container_after_a_restart_gets_a_pack_that_its_image_was_not_pulled_with() {
    let (lab, [web, job]) = two_packs();
    let chooser = Chooser::new(Vec::new(), None, "web".to_owned());
    let companions = {
        let here = lab.start(|options| options.pack.chooser = Arc::clone(&chooser));
        here.packed();
        let runtime = &here.node.runtime;
        let (fine, pack) =
            (runtime.block_on(here.image.fine_digest()), runtime.block_on(here.image.pack_digest()));
        Companions::Recorded { fine, pack }
    };
    lab.registry.forget_requests();
    let here = lab.run_with(lab.node(|options| options.pack.chooser = chooser), companions);
    let told = here.node.runtime.block_on(here.image.container_starts(&launch(&lab, &[(WORKLOAD, "job")])));
    assert_eq!(told, Some(("job".to_owned(), "label".to_owned())));
    for (layer, start, end) in [JOB, WEB].concat() {
        here.check(layer, start, end);
    }
    assert_eq!((lab.layer_ranges(), lab.requests(&web).len(), lab.requests(&job).len()), (0, 0, 1));
}

/// The part of the link's bytes that no category of the record has, and may have: lists of referrers are counted twice by nobody.
const TOLERANCE: u64 = 100;

#[test]
fn what_became_of_each_byte_adds_up_to_what_the_link_has_carried() {
    let (lab, [web, job]) = two_packs();
    let size = |blob: &Digest| lab.registry.blob(blob).unwrap().len() as u64;
    let chooser = Chooser::new(Vec::new(), None, "web".to_owned());
    let here = lab.start(|options| options.pack.chooser = chooser);
    here.packed();
    let record = || here.node.node.starts().reports()[0].clone();
    let link = |served: u64, record: &snapshotter::starts::StartReport| {
        let bytes = record.bytes;
        assert_eq!(bytes.sum(), bytes.link, "{bytes:?}");
        assert!(bytes.link.abs_diff(served) * TOLERANCE <= served, "{bytes:?} of {served}");
    };
    link(lab.registry.bytes_served(), &record());
    let pulled = record().bytes;
    assert_eq!((pulled.hit, pulled.late, pulled.missed), (0, 0, 0), "nobody has read");
    assert!(pulled.wasted > 0 && pulled.wasted < size(&web), "{pulled:?}: blocks without the head");
    assert!(pulled.overhead > size(&web) - pulled.wasted, "{pulled:?}: the head, and tables and manifests");

    // Half of what the pack has, twice; and something that it has not.
    here.check(0, 8192, 204_800);
    here.check(0, 8192, 204_800);
    let read = record().bytes;
    let part = f64::from(204_800 - 8192) / WEB.iter().map(|need| need.2 - need.1).sum::<u64>() as f64;
    let expected = (pulled.wasted as f64 * part) as u64;
    assert!(read.hit.abs_diff(expected) * 50 <= expected, "{read:?}, not {expected}");
    assert_eq!((read.missed, read.late, read.hit + read.wasted), (0, 0, pulled.wasted));
    let before = lab.registry.bytes_served();
    here.check(1, 300_000, 301_000);
    let missed = record().bytes;
    let carried = lab.registry.bytes_served() - before;
    assert!(missed.missed > 0 && missed.missed <= carried, "{missed:?} of {carried}");
    link(lab.registry.bytes_served(), &record());
    assert_eq!(record().packs[0].workload, "web");

    // A second container, whose pack is slow: its reader waits for it.
    let account = here.image.account();
    let starts = here.node.node.starts();
    let before = lab.registry.bytes_served();
    starts.container(account, "first", "k8s.io", snapshotter::telemetry::tally::micros());
    let second = starts.container(account, "second", "k8s.io", snapshotter::telemetry::tally::micros());
    lab.registry.faults().add(When::path(job.to_string()), Fault::Latency(Duration::from_millis(200)));
    let runtime = &here.node.runtime;
    let told = runtime.block_on(here.image.container_starts(&launch(&lab, &[(WORKLOAD, "job")])));
    starts.chosen(second, &told.clone().unwrap().0, &told.unwrap().1);
    for &(layer, start, end) in JOB {
        here.check(layer, start, end);
    }
    eventually("both packs are here", || here.node.stats.packs.get() == 2);
    let late = record();
    assert_eq!((late.container.as_deref(), late.packs[0].workload.as_str()), (Some("second"), "job"));
    assert_eq!(late.packs[0].chosen_by, "label");
    let served = lab.registry.bytes_served() - before;
    link(served, &late);
    assert!(
        late.bytes.late + late.bytes.hit > 0 && late.bytes.missed == 0 && late.bytes.wasted == 0,
        "{late:?}"
    );
}
