//! Profiles of made-up runs: the order of the runs does not matter, what is written is read, what is hostile is refused.

use std::sync::Arc;

use proptest::prelude::*;
use soci_core::trace::{Access, AccessKind, End, Header, Outcome, Phase, Process, Tail};

use super::*;
use crate::plan::{Coverage, LeftOut, plan};

fn header(started: u32) -> Header {
    Header {
        image: "registry/app:1".to_owned(),
        manifest: None,
        layers: Vec::new(),
        engine: "fuse".to_owned(),
        argv: vec!["secret".to_owned()],
        started_at: format!("2026-12-01T00:00:{started:02}Z"),
        warm: None,
        waits: None,
        partial: false,
    }
}

fn end(ready_ns: u64) -> Tail {
    Tail::Sealed(End {
        dropped: 0,
        outcome: Outcome::Ready,
        ready_ns: Some(ready_ns),
        ended_ns: ready_ns * 2,
        exit_code: None,
        outside: None,
        links: BTreeMap::default(),
    })
}

fn access(t_ms: u64, path: &str, offset: u64, len: u64) -> Access {
    Access {
        t_ns: t_ms * 1_000_000,
        phase: Phase::Start,
        kind: AccessKind::Read,
        path: Arc::from(path.as_bytes()),
        layer: Some(0),
        offset,
        len,
        process: Arc::new(Process { pid: 1, comm: Arc::from(&b"x"[..]) }),
        wait_ns: 0,
    }
}

fn run(started: u32, accesses: &[Access]) -> Profile {
    Profile::of_run("web", &header(started), Some(&end(5_000_000)), accesses)
}

fn merged(profiles: &[Profile]) -> Profile {
    Profile::merge(profiles.iter().cloned()).unwrap().unwrap()
}

fn some_run() -> impl Strategy<Value = Profile> {
    let one = (0..200u64, 0..4usize, 0..16u64, 1..9u64, any::<bool>(), any::<bool>());
    (0..60u32, prop::collection::vec(one, 1..30)).prop_map(|(started, needs)| {
        let accesses = needs.into_iter().map(|(t, file, page, pages, late, guess)| Access {
            phase: if late { Phase::Tail } else { Phase::Start },
            kind: if guess { AccessKind::Map } else { AccessKind::Read },
            ..access(t, ["a", "b/c", "d\\e", "ü"][file], page * 4096, pages * 4096)
        });
        run(started, &accesses.collect::<Vec<_>>())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_in_which_runs_are_put_together_does_not_matter(
        runs in prop::collection::vec(some_run(), 1..6), cut in 0..6usize, twice in 0..6usize,
    ) {
        let all = merged(&runs);
        let reversed: Vec<_> = runs.iter().rev().cloned().collect();
        prop_assert_eq!(merged(&reversed).to_bytes(), all.to_bytes());
        let (left, right) = runs.split_at(cut.min(runs.len() - 1));
        let mut parts = vec![merged(right), runs[twice % runs.len()].clone()];
        if !left.is_empty() {
            parts.push(merged(left));
        }
        prop_assert_eq!(merged(&parts).to_bytes(), all.to_bytes(), "in parts, and one of them twice");
    }

    #[test]
    fn what_is_written_is_read(runs in prop::collection::vec(some_run(), 1..5)) {
        let profile = merged(&runs);
        prop_assert_eq!(Profile::read(&profile.to_bytes()).unwrap(), profile.clone());
        prop_assert!(!String::from_utf8_lossy(&profile.to_json()).contains("secret"));
    }

    #[test]
    fn a_plan_of_all_runs_has_every_byte_once_in_order_of_need(runs in prop::collection::vec(some_run(), 1..6)) {
        let profile = merged(&runs);
        let Supported { plan, left_out } = profile.plan(Threshold::Any);
        prop_assert_eq!(left_out, LeftOut::default());
        let mut seen: BTreeMap<Arc<[u8]>, Coverage> = BTreeMap::new();
        for item in &plan.items {
            let new = seen.entry(Arc::clone(&item.path)).or_default().add(item.range);
            prop_assert_eq!(new, vec![item.range]);
        }
        prop_assert_eq!(seen.values().map(Coverage::len).sum::<u64>(), profile.bytes());
        let (asked, mapped) = plan.items[..plan.must_have].split_at(plan.asked);
        prop_assert!(asked.is_sorted_by_key(|item| item.first_need_ns));
        prop_assert!(mapped.is_sorted_by_key(|item| item.first_need_ns));
    }
}

#[test]
fn one_run_is_planned_as_its_trace_is() {
    let trace = [
        access(1, "a", 0, 4096),
        access(2, "a", 4096, 8192),
        access(3, "b", 0, 100),
        access(40, "a", 12288, 4096),
        access(41, "b", 4096, 4096),
    ];
    assert_eq!(run(1, &trace).plan(Threshold::default()).plan, plan(&trace));
}

#[test]
fn from_five_runs_on_what_one_has_needed_is_left_out() {
    let always = access(1, "always", 0, 4096);
    let runs: Vec<_> = (0..5)
        .map(|number| {
            let mut accesses = vec![always.clone()];
            if number < 2 {
                accesses.push(access(2, "twice", 0, 4096));
            }
            if number == 0 {
                accesses.push(access(3, "once", 0, 8192));
            }
            run(number, &accesses)
        })
        .collect();
    let paths = |supported: &Supported| -> Vec<String> {
        supported.plan.items.iter().map(|item| String::from_utf8_lossy(&item.path).into_owned()).collect()
    };
    let four = merged(&runs[..4]).plan(Threshold::Evidence);
    assert_eq!(paths(&four), ["always", "twice", "once"]);
    let five = merged(&runs).plan(Threshold::Evidence);
    assert_eq!(paths(&five), ["always", "twice"]);
    assert_eq!(five.left_out, LeftOut { files: 1, bytes: 8192 });
    assert_eq!(paths(&merged(&runs).plan(Threshold::Any)).len(), 3);
    assert_eq!(paths(&merged(&runs).plan(Threshold::Bound(0.5))), ["always"]);
    let latest = merged(&runs).latest_runs(3);
    assert_eq!((latest.runs().len(), latest.files().len()), (3, 1));
    assert_eq!(Profile::read(&latest.to_bytes()).unwrap(), latest);
}

#[test]
fn a_run_as_it_was_and_as_it_was_rebased_are_one_run_that_needs_no_byte_twice() {
    let known = |text: &str, size| Content { size, digest: Digest::of(text.as_bytes()) };
    let inventory = |content| Inventory::new([(Arc::from(&b"a"[..]), content)]);
    let one = run(1, &[access(1, "a", 0, 8192), access(30, "a", 500 << 10, 8192)])
        .with_contents(&inventory(known("one", 1 << 20)));
    let (two, _) = one.rebase(Source::default(), &inventory(known("two", 2 << 20)));
    let both = merged(&[one.clone(), two.clone()]);
    assert_eq!(both.runs().len(), 1);
    assert_eq!(Profile::read(&both.to_bytes()).unwrap(), both);
    assert_eq!(merged(&[two, one]).to_bytes(), both.to_bytes());
}

#[test]
fn profiles_of_two_workloads_are_not_one() {
    let one = run(1, &[access(1, "a", 0, 1)]);
    let mut other = run(2, &[access(1, "a", 0, 1)]);
    other.workload = "worker".to_owned();
    assert!(
        matches!(Profile::merge([one, other]), Err(ProfileError::Workloads(a, b)) if a == "web" && b == "worker")
    );
    assert!(Profile::merge([]).unwrap().is_none());
}

#[test]
fn what_only_one_of_two_profiles_needs_is_told() {
    let one = run(1, &[access(1, "both", 0, 8192), access(2, "old", 0, 4096)]);
    let other = run(2, &[access(3, "both", 4096, 8192), access(2, "new", 0, 12288)]);
    let difference = Difference::between(&one, &other);
    assert_eq!((difference.common, difference.lost(), difference.gained()), (4096, 8192, 16384));
    assert_eq!(&*difference.changes[0].path, b"new");
    let both = difference.changes.iter().find(|change| &*change.path == b"both").unwrap();
    assert_eq!((both.lost, both.gained, both.later_us), (4096, 4096, Some(2000)));
}

#[test]
fn hostile_documents_are_refused_with_the_reason() {
    let good = run(1, &[access(1, "a", 0, 8192)]).to_json();
    let good = String::from_utf8(good).unwrap();
    assert!(Profile::read(good.as_bytes()).is_ok());
    let reason = |text: &str| {
        let error = Profile::read(text.as_bytes()).expect_err(text);
        soci_core::error::chain(&error)
    };
    let with = |from: &str, to: &str| {
        assert!(good.contains(from), "{from} in {good}");
        good.replace(from, to)
    };
    for (from, to, expected) in [
        ("\"schema\":1", "\"schema\":2", "schema is 2"),
        ("\"path\":\"a\"", "\"path\":\"/a\"", "no path"),
        ("\"path\":\"a\"", "\"path\":\"../a\"", "no path"),
        ("\"path\":\"a\"", "\"path\":\"a\\u0000\"", "no path"),
        ("[[0,8192,0,1000,0]]", "[]", "nothing is needed"),
        ("[[0,8192,0,1000,0]]", "[[0,8192]]", "no runs"),
        ("[[0,8192,0,1000,0]]", "[[0,8192,0,1000]]", "half a one"),
        ("[[0,8192,0,1000,0]]", "[[0,0,0,1000,0]]", "is empty"),
        ("[[0,8192,0,1000,0]]", "[[18446744073709551615,2,0,1000,0]]", "is empty, or ends"),
        ("[[0,8192,0,1000,0]]", "[[0,8192,7,1000,0]]", "not there"),
        ("[[0,8192,0,1000,0]]", "[[0,8192,0,1000,9]]", "unknown kind"),
        ("[[0,8192,0,1000,0]]", "[[0,8192,0,1000,0],[4096,8192,0,1000,0]]", "a byte twice"),
        ("[[0,8192,0,1000,0]]", "[[4096,4096,0,1,0],[0,4096,0,1,0]]", "not in order"),
        ("\"path\":\"a\"", "\"path\":\"a\",\"size\":5", "do not go together"),
        ("\"path\":\"a\"", "\"path\":\"a\",\"trust\":1001", "more than 1000"),
        ("\"files\":[", "\"files\":[{\"path\":\"a\",\"ranges\":[[0,1,0,0,0]]},", "there twice"),
    ] {
        let reason = reason(&with(from, to));
        assert!(reason.contains(expected), "{reason}");
    }
    let id = good.split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    for (from, to, expected) in [
        (id, "sha256:0", "not a profile"),
        (id, "md5:d41d8cd98f00b204e9800998ecf8427e", "not a profile"),
        ("\"engine\":\"fuse\"", &format!("\"engine\":\"{}\"", "e".repeat(5000)), "too long"),
        ("\"ended_us\":10000", "\"ended_us\":100000000000000000000", "not a profile"),
    ] {
        let reason = reason(&with(from, to));
        assert!(reason.contains(expected), "{reason}");
    }
    // A run that is there twice, with another one in between.
    let run = good.split("\"runs\":[").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
    let later = |second: &str| run.replace("00:00:01Z", second);
    let between = later("00:00:02Z").replace(id, &Digest::of(b"other").to_string());
    let twice = format!("{run},{between},{}", later("00:00:03Z"));
    assert!(reason(&with(run, &twice)).contains("there twice"));
    // More than any profile has: counted, not read.
    let limit = |text: String| match Profile::read(text.as_bytes()) {
        Err(ProfileError::Limit(over)) => over.limit,
        other => panic!("{other:?}"),
    };
    assert_eq!(limit("[".repeat(100_000)), "profile-depth");
    assert_eq!(limit(format!("{}{}", "{\"image\":".repeat(10_000), "1")), "profile-depth");
    assert_eq!(limit("{},".repeat((1 << 20) + 1)), "profile-files");
    assert_eq!(limit("[],".repeat((1 << 22) + 1)), "profile-ranges");
    assert_eq!(limit("0,".repeat((1 << 24) + 1)), "profile-values");
    // A small frame that becomes a large text.
    let bomb = zstd::bulk::compress(&vec![b' '; 300 << 20], 1).unwrap();
    let error = Profile::read(&bomb).unwrap_err();
    assert!(matches!(error, ProfileError::Limit(_)), "{error}");
}
