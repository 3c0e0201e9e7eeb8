//! The command line of `soci record`: what a mode has no use for is refused, results of an earlier recording are not
//! replaced, and help says with which codes it ends. Nothing is recorded.

use std::fs;

use harness::soci::Soci;

#[test]
fn what_means_nothing_in_a_mode_is_refused_and_not_ignored() {
    let soci = Soci::new();
    let refused = |words: &[&str]| {
        let outcome = soci.run([&["record"], words].concat());
        assert_eq!(outcome.code, 1, "{words:?}: {}", outcome.stderr);
        outcome.stderr
    };
    for flag in [
        &["--net", "none"][..],
        &["--user", "7"],
        &["--arg", "x"],
        &["--keep"],
        &["--plain-http"],
        &["--registry-user", "me:secret"],
        &["--skip-verify"],
        &["--hosts-dir", "."],
    ] {
        let said = refused(&[flag, &["--", "true"]].concat());
        assert!(said.contains(&format!("{} is for an image", flag[0])), "{said}");
        let said = refused(&[flag, &["--attach", "1"]].concat());
        assert!(said.contains(&format!("{} is for an image", flag[0])), "{said}");
    }
    for flag in [&["--state", "s"][..], &["--env", "A=1"], &["--cwd", "/"], &["--runs", "2"]] {
        let said = refused(&[flag, &["--", "true"]].concat());
        assert!(said.contains(&format!("{} is for a workload", flag[0])), "{said}");
    }
    let said = refused(&["--rootfs", ".", "--plain-http", "--", "true"]);
    assert!(said.contains("--plain-http means nothing with --rootfs"), "{said}");
    let said = refused(&["--prune", "--image", "oci:x"]);
    assert!(said.contains("cannot be used with"), "{said}");
    let said = refused(&[]);
    assert!(said.contains("nothing to record"), "{said}");
}

#[test]
fn results_that_have_the_name_are_kept() {
    let soci = Soci::new();
    for there in ["t.trace", "t.prefetch.json", "t.html"] {
        fs::write(soci.dir().join(there), "earlier").unwrap();
        let words = ["record", "--name", "t", "--report", "--", "true"];
        let said = soci.run(words).failed();
        assert!(said.contains(there) && said.contains("is there already"), "{said}");
        assert_eq!(fs::read(soci.dir().join(there)).unwrap(), b"earlier");
        fs::remove_file(soci.dir().join(there)).unwrap();
    }
    fs::write(soci.dir().join("t.trace"), "earlier").unwrap();
    let forced = soci.run(["record", "--name", "t", "--force", "--", "true"]).failed();
    assert!(!forced.contains("already"), "{forced}");
}

#[test]
fn a_name_under_which_somebody_records_is_not_taken() {
    let soci = Soci::new();
    let claim = fs::File::create(soci.dir().join(".t.recording")).unwrap();
    rustix::fs::flock(&claim, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let said = soci.run(["record", "--name", "t", "--", "true"]).failed();
    assert!(said.contains("another recording named t is under way"), "{said}");
    drop(claim);
    let said = soci.run(["record", "--name", "t", "--", "true"]).failed();
    assert!(!said.contains("under way"), "{said}");
    assert!(!soci.dir().join(".t.recording").exists());
}

#[test]
fn layers_are_pruned_and_help_has_the_exit_codes() {
    let soci = Soci::new();
    let layer = soci.dir().join("state/layers").join("ab".repeat(32));
    fs::create_dir_all(layer.join("fs")).unwrap();
    fs::write(layer.join("bytes"), "4096").unwrap();
    let pruned = soci.run(["record", "--prune", "--state", "state", "--json"]).ok();
    let pruned: serde_json::Value = serde_json::from_str(&pruned).unwrap();
    assert_eq!(pruned, serde_json::json!({"layers": 1, "bytes": 4096, "in_use": 0}));
    assert!(!layer.exists());
    assert_eq!(soci.run(["record", "--prune", "--state", "nowhere"]).code, 0);
    for (command, code) in
        [("record", "3 recorded, but accesses were lost"), ("run", "4 when it was not ready in time")]
    {
        let help = soci.run([command, "--help"]).ok();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(code), "{help}");
    }
}
