//! What people see of a daemon: its health, and the record of a start, whose bytes add up to what the registry has sent. Needs root
//! and /dev/fuse.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use harness::daemon::{Daemon, program};
use harness::faults::{Fault, When};
use harness::pack_lab::{Lab, two_layers};
use harness::patience::eventually;
use harness::pull::{By, mount_at, prepare_container, pull};
use rustix::mount::{UnmountFlags, unmount};
use serde_json::Value;
use soci_core::digest::Digest;
use tokio::runtime::Runtime;

#[test]
fn health_turns_bad_when_the_database_or_containerd_is_gone() {
    let work = tempfile::tempdir().unwrap();
    let containerd = work.path().join("containerd.sock");
    let listener = UnixListener::bind(&containerd).unwrap();
    let daemon =
        Daemon::start(work.path(), &format!("[status]\ncontainerd_socket = \"{}\"\n", containerd.display()));
    let socket = daemon.root().join("status.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    eventually("the daemon is well", || daemon.ask("/healthz") == (200, "ok\n".to_owned()));
    assert_eq!(daemon.metric("soci_healthy"), 1);

    drop(listener);
    let (status, why) = daemon.ask("/healthz");
    assert_eq!(status, 503);
    assert!(why.contains("containerd does not answer on") && why.lines().count() == 1, "{why}");
    assert_eq!((daemon.status()["healthy"].clone(), daemon.metric("soci_healthy")), (Value::Bool(false), 0));
    fs::remove_file(&containerd).unwrap();
    let _listener = UnixListener::bind(&containerd).unwrap();
    assert_eq!(daemon.ask("/healthz").0, 200);

    let database = daemon.root().join("snapshotter/metadata.redb");
    let aside = database.with_extension("aside");
    fs::rename(&database, &aside).unwrap();
    let (status, why) = daemon.ask("/healthz");
    assert_eq!(status, 503);
    assert!(why.contains("the database of snapshots fails") && why.contains("metadata.redb"), "{why}");
    fs::copy(&aside, &database).unwrap();
    assert_eq!(daemon.ask("/healthz").0, 503, "another file has its name");
    fs::rename(&aside, &database).unwrap();
    assert_eq!(daemon.ask("/healthz").0, 200);
}

#[test]
fn health_is_bad_until_the_layers_of_an_earlier_process_are_served() {
    let lab = Lab::new(two_layers());
    let work = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(work.path(), "");
    let diff_ids: Vec<_> = lab.tars.iter().map(|tar| Digest::of(tar)).collect();
    let runtime = Runtime::new().unwrap();
    let rootfs = work.path().join("rootfs");
    runtime.block_on(async {
        let mut client = daemon.client().await;
        let (_, top) = pull(&mut client, &lab.image, &diff_ids, |_, _| {}).await.unwrap();
        mount_at(&prepare_container(&mut client, "default/1/a", &top).await.unwrap(), &rootfs);
    });
    assert_eq!(daemon.metric("soci_lazy_layers{state=\"mounted\"}"), 2);
    daemon.kill();
    // Nothing says any more what the layers look like, and nobody can be asked.
    let (content, aside) = (daemon.root().join("content"), daemon.root().join("aside"));
    fs::rename(&content, &aside).unwrap();
    lab.registry.faults().add(When::always(), Fault::Hang);
    daemon.restart("");
    let (status, why) = daemon.ask("/healthz");
    assert_eq!(status, 503);
    assert!(why.contains("2 layers of an earlier process are not served yet"), "{why}");
    assert_eq!(daemon.metric("soci_lazy_layers{state=\"waiting\"}"), 2);
    daemon.kill();
    fs::remove_dir_all(&content).unwrap();
    fs::rename(&aside, &content).unwrap();
    daemon.restart("");
    eventually("the layers are served", || daemon.ask("/healthz").0 == 200);
    assert_eq!(daemon.metric("soci_lazy_layers{state=\"mounted\"}"), 2);
    unmount(&rootfs, UnmountFlags::DETACH).unwrap();
}

/// What `soci status --json` says of the newest start of an image.
fn newest(daemon: &Daemon, image: &str) -> Value {
    let root = daemon.root();
    let output = Command::new(program("soci"))
        .args(["--root", root.to_str().unwrap(), "status", "--json", image])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    document["starts"][0].clone()
}

/// Fails unless all bytes of the link are somewhere, and are as many as the registry has sent, give or take one per cent.
#[track_caller]
fn adds_up(start: &Value, served: u64) {
    let bytes = |name: &str| start["bytes"][name].as_u64().unwrap_or_else(|| panic!("{name} in {start:#}"));
    let parts = ["hit", "late", "wasted", "missed", "background", "whole", "overhead"];
    assert_eq!(parts.map(bytes).iter().sum::<u64>(), bytes("link"), "{start:#}");
    println!("link {} of {served} sent: {}", bytes("link"), start["bytes"]);
    assert!(bytes("link").abs_diff(served) * 100 <= served, "{served} sent: {start:#}");
}

#[test]
fn the_bytes_of_a_start_add_up_to_what_the_link_has_carried() {
    for page_cache in [false, true] {
        let lab = Lab::new(two_layers());
        lab.put_fine();
        lab.pack(&[(0, 8192, 204_800), (1, 4096, 65_536)]).put(&lab.registry);
        let work = tempfile::tempdir().unwrap();
        let config = format!(
            "[pull_modes.soci_v1]\nenable = true\n[background_fetch]\ndisable = true\n[pack]\npage_cache = {page_cache}\n"
        );
        let daemon = Daemon::start(work.path(), &config);
        let runtime = Runtime::new().unwrap();
        let diff_ids: Vec<_> = lab.tars.iter().map(|tar| Digest::of(tar)).collect();
        let rootfs = work.path().join("rootfs");
        runtime.block_on(async {
            let mut client = daemon.client().await;
            let (by, top) = pull(&mut client, &lab.image, &diff_ids, |_, _| {}).await.unwrap();
            assert_eq!(by, [By::Snapshotter; 2]);
            let mounts = prepare_container(&mut client, "default/1/a", &top).await.unwrap();
            mount_at(&mounts, &rootfs);
        });
        let image = &lab.image.reference;
        adds_up(&newest(&daemon, image), lab.registry.bytes_served());
        let mut read = Vec::new();
        for (layer, name) in ["file1", "file2"].iter().enumerate() {
            // In small pieces, past the kernel's read-ahead.
            let pages = harness::site::Pages::of(&rootfs.join(name));
            for page in (0..64).chain(160..168) {
                let got = pages.read(page * 4096).unwrap().0;
                let at = 512 + page as usize * 4096;
                assert!(got == lab.tars[layer][at..at + 4096], "{name} at {page}");
                read.extend(got);
            }
        }
        eventually("the pack is here", || daemon.metric("soci_packs_total") == 1);
        let start = newest(&daemon, image);
        adds_up(&start, lab.registry.bytes_served());
        let bytes = |name: &str| start["bytes"][name].as_u64().unwrap();
        assert!(bytes("missed") > 0 && bytes("hit") + bytes("late") > 0, "{start:#}");
        assert_eq!(bytes("handed") > 0, page_cache, "{start:#}");
        assert!(start["mounted_ms"].is_u64() && start["first_byte_ms"].is_u64(), "{start:#}");
        assert_eq!((&start["container"], &start["namespace"]), (&"default/1/a".into(), &"default".into()));
        let ways: Vec<_> =
            start["layers"].as_array().unwrap().iter().map(|layer| layer["way"].clone()).collect();
        assert_eq!(ways, ["lazy", "lazy"], "{start:#}");
        unmount(&rootfs, UnmountFlags::DETACH).unwrap();
        // For people.
        let root = daemon.root();
        let shown = Command::new(program("soci"))
            .args(["--root", root.to_str().unwrap(), "status"])
            .output()
            .unwrap();
        let text = String::from_utf8(shown.stdout).unwrap();
        assert!(text.contains("layers     2 of 2 lazy") && text.contains(": healthy"), "{text}");
    }
}

#[test]
fn why_a_layer_is_not_lazy_is_told_with_what_to_change() {
    let mut layers = two_layers();
    layers[1].0.unindexed = true;
    let lab = Lab::new(layers);
    let work = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(work.path(), "");
    let diff_ids: Vec<_> = lab.tars.iter().map(|tar| Digest::of(tar)).collect();
    let runtime = Runtime::new().unwrap();
    let pulled = runtime.block_on(async {
        let mut client = daemon.client().await;
        pull(&mut client, &lab.image, &diff_ids, |_, _| {}).await
    });
    assert_eq!(pulled.unwrap().0, [By::Snapshotter; 2]);
    let start = newest(&daemon, &lab.image.reference);
    assert_eq!((&start["phase"], &start["container"]), (&"pulled".into(), &Value::Null));
    let told: Vec<_> = start["layers"].as_array().unwrap().iter().map(|layer| &layer["way"]).collect();
    assert_eq!(told, ["lazy", "whole"], "{start:#}");
    let whole = &start["layers"][1];
    assert!(whole["reason"].as_str().unwrap().contains("no zTOC for it"), "{whole}");
    assert!(whole["advice"].as_str().unwrap().contains("--min-layer-size 0"), "{whole}");
    adds_up(&start, lab.registry.bytes_served());
    assert!(start["bytes"]["whole"].as_u64().unwrap() > 0, "{start:#}");
}

#[test]
fn layers_whose_client_does_not_say_which_they_are_are_told() {
    let work = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(work.path(), "");
    Runtime::new().unwrap().block_on(async {
        let mut client = daemon.client().await;
        prepare_container(&mut client, "default/1/extract-1 sha256:abc", "").await.unwrap();
    });
    let told = daemon.status()["unlabelled"].clone();
    assert_eq!((told.as_array().map(Vec::len), &told[0]["layers"]), (Some(1), &1.into()), "{told}");
    assert!(told[0]["advice"].as_str().unwrap().contains("soci pull"), "{told}");
}

#[test]
fn a_read_that_fails_is_logged_with_image_layer_and_path() {
    let mut lab = Lab::new(two_layers());
    let work = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(work.path(), "[blob]\nfetching_timeout_sec = 1\n[http]\nMaxRetries = -1\n");
    let diff_ids: Vec<_> = lab.tars.iter().map(|tar| Digest::of(tar)).collect();
    let runtime = Runtime::new().unwrap();
    let rootfs = work.path().join("rootfs");
    runtime.block_on(async {
        let mut client = daemon.client().await;
        let (_, top) = pull(&mut client, &lab.image, &diff_ids, |_, _| {}).await.unwrap();
        mount_at(&prepare_container(&mut client, "default/1/a", &top).await.unwrap(), &rootfs);
    });
    lab.registry.stop();
    assert!(harness::site::Pages::of(&rootfs.join("file1")).read(8 * 4096).is_err(), "there is no registry");
    unmount(&rootfs, UnmountFlags::DETACH).unwrap();
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("read failed")).unwrap_or_else(|| panic!("{log}"));
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["image"], lab.image.reference.as_str(), "{line}");
    assert_eq!(line["layer"], lab.image.layers[0].to_string().as_str(), "{line}");
    assert_eq!((&line["path"], &line["offset"]), (&"file1".into(), &(8 * 4096).into()), "{line}");
    // No words of Rust where people read.
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        for (key, value) in line.as_object().unwrap() {
            let text = value.as_str().unwrap_or_default();
            assert!(
                !["Some(", "None", "Ok(", "Err(", " { "].iter().any(|word| text.contains(word)),
                "{key}: {line}"
            );
        }
    }
}
