//! Against what upstream's `soci` printed and stored: the same commands on the same image give the same output, the
//! same blobs, byte for byte.
//!
//! The cases are JSON files of the folder `golden` in the reference material; the image comes from an OCI layout in
//! place of a registry. Only times, and the name under which the image is known, may differ.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use harness::replay;
use harness::soci::{Outcome, Soci};
use serde::Deserialize;
use soci_core::digest::Digest;
use soci_core::store::LayoutStore;

/// The image's name upstream, and a name of the same length here, so that tables have the same columns.
const THEIRS: &str = "127.0.0.1:5601/small:latest";
const OURS: &str = "oci:image-small-from-layout";
/// How every command of a case begins.
const PREFIX: &str = "soci -a CONTAINERD.SOCK --content-store soci --root ROOT ";

#[derive(Deserialize)]
struct Case {
    commands: Vec<Recorded>,
    #[serde(default)]
    blobs: Vec<Blob>,
    #[serde(default)]
    prefetch_json: Option<String>,
}

#[derive(Deserialize)]
struct Recorded {
    cmd: String,
    #[serde(default)]
    rc: i32,
    stdout: Option<String>,
    /// In place of a long text.
    stdout_sha256: Option<String>,
    stderr: Option<String>,
}

#[derive(Deserialize)]
struct Blob {
    digest: Digest,
    size: u64,
    json: Option<String>,
}

fn golden() -> PathBuf {
    PathBuf::from(std::env::var_os("SOCI_SHARED").expect("SOCI_SHARED names the reference material"))
        .join("golden")
}

fn case(name: &str) -> Case {
    let raw = fs::read(golden().join(format!("{name}.json"))).unwrap();
    serde_json::from_slice(&raw).unwrap()
}

fn place(case: &Case) -> Soci {
    let soci = Soci::new();
    symlink(golden().join("image-small"), soci.dir().join(OURS.strip_prefix("oci:").unwrap())).unwrap();
    if let Some(list) = &case.prefetch_json {
        fs::write(soci.dir().join("prefetch.json"), list).unwrap();
    }
    fs::create_dir(soci.dir().join("out")).unwrap();
    soci
}

/// Runs a command as it was recorded, but for `more` words when it builds an index.
fn run(soci: &Soci, recorded: &Recorded, more: &[&str]) -> Option<Outcome> {
    let command = recorded.cmd.strip_prefix(PREFIX)?.replace(THEIRS, OURS);
    let more = if command.starts_with("create ") { more } else { &[] };
    Some(soci.run(command.split(' ').chain(more.iter().copied())))
}

/// Leaves out what depends on the clock, and the order in which layers were done.
fn comparable(text: &str, command: &str) -> String {
    replay::comparable(&text.replace(THEIRS, OURS), command).join("\n")
}

/// Runs a case's commands up to the first one that is not ours; compares output and then the store.
fn replay(name: &str, more: &[&str]) {
    let case = case(name);
    let soci = place(&case);
    let mut compared = 0;
    for recorded in &case.commands {
        let Some(outcome) = run(&soci, recorded, more) else { continue };
        assert_eq!(outcome.code, recorded.rc, "{name}: {}\n{}", recorded.cmd, outcome.stderr);
        if let Some(theirs) = &recorded.stdout_sha256 {
            assert_eq!(Digest::of(outcome.stdout.as_bytes()).hex(), *theirs, "{name}: {}", recorded.cmd);
        }
        if let Some(stdout) = &recorded.stdout {
            let (ours, theirs) =
                (comparable(&outcome.stdout, &recorded.cmd), comparable(stdout, &recorded.cmd));
            assert_eq!(ours, theirs, "{name}: {}", recorded.cmd);
            compared += 1;
        }
    }
    assert!(compared > 0, "{name} compares nothing");
    let store = LayoutStore::existing(&soci.dir().join("root/content")).unwrap();
    let mut stored = BTreeMap::new();
    for entry in fs::read_dir(store.root().join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        stored.insert(entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len());
    }
    let theirs: BTreeMap<String, u64> =
        case.blobs.iter().map(|blob| (blob.digest.hex(), blob.size)).collect();
    assert_eq!(stored, theirs, "{name}: blobs");
    for blob in &case.blobs {
        let bytes = store.read(&blob.digest).unwrap();
        if let Some(json) = &blob.json {
            assert_eq!(String::from_utf8_lossy(&bytes), *json, "{name}: {}", blob.digest);
        }
    }
}

macro_rules! replayed {
    ($more:expr; $($name:ident),* $(,)?) => { $( #[test] fn $name() { replay(stringify!($name), $more); } )* };
}

replayed! { &[];
    small_default, small_min0, small_span64k, small_span1m, small_span8m, small_xattr,
    pf_json, pf_flags, pf_comma, pf_both, pf_empty, pf_missing, pf_dotdot, pf_null_json,
    getfile,
}

/// Where upstream looks into tars and not into the image, its rule must be asked for.
mod by_upstreams_rule {
    use super::replay;

    replayed! { &["--prefetch-compat", "upstream"];
        pf_json, pf_flags, pf_comma, pf_both, pf_empty, pf_missing, pf_dotdot, pf_null_json,
        pf_dir_slash, pf_dotslash, pf_hardlink, pf_skipped_layer, pf_symlink, pf_whfile, pf_whiteouted,
    }
}

/// Every error of upstream's that we give in the same words, as recorded.
#[test]
fn errors() {
    let case = case("errors");
    let soci = place(&case);
    let mut compared = 0;
    for recorded in &case.commands {
        // Images that are in no layout are looked for in a registry, which is a matter of tests/cli.rs; `convert`,
        // `rebuild-db` and the help texts are not compared. Upstream takes an image of one platform for any.
        let ours = ![
            "/none:latest",
            "convert",
            "rebuild-db",
            "nosuch",
            "--bogus",
            "SOCI push ",
            "--platform linux/arm64",
        ]
        .iter()
        .any(|other| recorded.cmd.replace(PREFIX, "SOCI ").contains(other));
        if !ours || recorded.cmd.strip_prefix(PREFIX).is_none_or(str::is_empty) {
            continue;
        }
        let outcome = run(&soci, recorded, &[]).unwrap();
        assert_eq!(outcome.code, recorded.rc, "{}\n{}", recorded.cmd, outcome.stderr);
        if let Some(stderr) = recorded.stderr.as_deref().filter(|_| recorded.rc != 0) {
            let first = outcome.stderr.lines().next().unwrap_or_default();
            assert_eq!(first, stderr.trim_end(), "{}", recorded.cmd);
            compared += 1;
        }
    }
    assert!(compared >= 12, "only {compared} compared");
}
