//! Records of made-up starts: times, how each layer came, and bytes that add up.

use std::sync::Arc;

use soci_core::digest::Digest;

use super::*;

fn starts() -> Arc<Starts> {
    Starts::new(Arc::default())
}

#[test]
fn the_first_container_takes_the_record_of_its_pull_and_the_next_has_its_own() {
    let starts = starts();
    let account = starts.account("r/app:1", Digest::of(b"a"));
    starts.pulling(&account);
    starts.pulling(&account);
    assert_eq!(starts.reports().len(), 1);
    assert_eq!((starts.reports()[0].phase, starts.reports()[0].container.clone()), (Phase::Pulled, None));
    let first = starts.container(&account, "k8s.io/1/a", "k8s.io", micros());
    starts.mounted(first, micros());
    starts.chosen(first, "web", "label");
    let tally = Arc::default();
    account.serves(Digest::of(b"layer"), &tally);
    tally.missed.add(10);
    tally.read_begins();
    let reports = starts.reports();
    assert_eq!(
        (reports.len(), reports[0].phase, reports[0].bytes.missed, reports[0].reads),
        (1, Phase::Starting, 10, 1)
    );
    assert!(reports[0].mounted_ms.is_some() && reports[0].first_byte_ms.is_some());

    starts.container(&account, "k8s.io/2/b", "k8s.io", micros());
    tally.missed.add(5);
    let reports = starts.reports();
    assert_eq!((reports[0].bytes.missed, reports[1].bytes.missed), (5, 10));
    assert_eq!((reports[0].phase, reports[1].phase), (Phase::Starting, Phase::Over));
    assert_eq!(reports[0].first_byte_ms, None, "its own first byte");
    assert_eq!(starts.stats.first_bytes.get().count(), 1);
}

#[test]
fn a_layer_that_comes_again_goes_on_where_it_was() {
    let starts = starts();
    let account = starts.account("r/app:1", Digest::of(b"a"));
    starts.pulling(&account);
    let layer = Digest::of(b"layer");
    for bytes in [100, 20] {
        let tally = Arc::default();
        account.serves(layer, &tally);
        account.serves(layer, &tally);
        tally.missed.add(bytes);
    }
    assert_eq!(starts.reports()[0].bytes.missed, 120);
    account.came(layer, Way::Lazy, "x".repeat(10_000), "");
    assert_eq!(starts.reports()[0].layers[0].reason.len(), 500);
}

#[test]
fn records_and_accounts_are_bounded() {
    let starts = starts();
    for image in 0..3 * MAX_RECORDS {
        let account = starts.account(&format!("r/app:{image}"), Digest::of(b"a"));
        starts.pulling(&account);
    }
    assert_eq!(starts.reports().len(), MAX_RECORDS);
    assert!(starts.state.lock().accounts.len() <= MAX_RECORDS + 2);
    assert_eq!(starts.reports()[0].image, format!("r/app:{}", 3 * MAX_RECORDS - 1));
}

#[test]
fn packs_are_told_with_their_end() {
    let starts = starts();
    let account = starts.account("r/app:1", Digest::of(b"a"));
    starts.pulling(&account);
    let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
    account.pack_begins(one, "web", "rule 1", 7);
    account.pack_begins(other, "", "default", 8);
    account.pack_ends(&one, Some("gone".to_owned()));
    let start = starts.container(&account, "k", "", micros());
    starts.chosen(start, "web", "label");
    let packs = &starts.reports()[0].packs;
    assert_eq!(
        (packs[0].workload.as_str(), packs[0].chosen_by.as_str(), packs[0].state),
        ("web", "label", "failed")
    );
    assert_eq!((packs[1].workload.as_str(), packs[1].state, packs[1].done_ms), ("", "coming", None));
}
