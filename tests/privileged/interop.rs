//! Against what upstream's `soci` printed and stored with a containerd: the same commands on the same image in a real
//! containerd, byte for byte, tables and errors included.
//!
//! The cases are JSON files of the folder `golden` in the reference material. What differs on purpose is listed with
//! each case, and has to differ: the list cannot grow stale.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use harness::containerd::Containerd;
use harness::disk_image::pack;
use harness::docker_registry::DockerRegistry;
use harness::replay;
use harness::soci::{Outcome, Soci};
use serde::Deserialize;
use soci_core::digest::Digest;
use tempfile::TempDir;

/// The image's registry upstream.
const THEIRS: &str = "127.0.0.1:5601";

#[derive(Deserialize)]
struct Case {
    commands: Vec<Recorded>,
    #[serde(default)]
    files: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Recorded {
    label: String,
    cmd: String,
    #[serde(default)]
    rc: i32,
    #[serde(default)]
    stdout: Option<String>,
    #[serde(default)]
    stdout_sha256: Option<String>,
    #[serde(default)]
    stderr: Option<String>,
}

fn golden() -> PathBuf {
    PathBuf::from(std::env::var_os("SOCI_SHARED").expect("SOCI_SHARED names the reference material"))
        .join("golden")
}

fn case(name: &str) -> Case {
    let raw = fs::read(golden().join(format!("{name}.json"))).unwrap();
    serde_json::from_slice(&raw).unwrap()
}

/// A containerd with the image, and a place for `soci`.
struct Place {
    soci: Soci,
    containerd: Containerd,
    /// Where upstream had its registry.
    host: String,
    _dir: TempDir,
}

fn place(host: &str) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let containerd = Containerd::plain(dir.path());
    let tar = dir.path().join("image.tar");
    pack(&golden().join("image-small"), &tar);
    let base = format!("{host}/small");
    let words = ["images", "import", "--no-unpack", "--base-name", &base, tar.to_str().unwrap()];
    containerd.ctr_ok(&words);
    let soci = Soci::with_containerd(&containerd.socket());
    fs::create_dir(soci.dir().join("out")).unwrap();
    Place { soci, containerd, host: host.to_owned(), _dir: dir }
}

impl Place {
    fn run(&self, recorded: &Recorded) -> Outcome {
        let words = recorded.cmd.replace(THEIRS, &self.host);
        let words = words.strip_prefix("soci -a CONTAINERD.SOCK ").unwrap();
        let words = words.split(' ').filter(|word| !word.is_empty());
        let mut all = vec!["--namespace", "k8s.io"];
        let mut skip = false;
        for word in words {
            // The place has a root directory of its own.
            if word == "--root" || skip {
                skip = !skip;
            } else {
                all.push(word);
            }
        }
        self.soci.run(all)
    }

    /// Leaves out what depends on the clock or the network, and the order in which layers were done.
    fn comparable(&self, text: &str, command: &str) -> String {
        let mut lines = replay::comparable(&text.replace(THEIRS, &self.host), command);
        lines.retain(|line| !line.starts_with("http "));
        if self.host != THEIRS {
            // Names of another length make columns of another width.
            lines = lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        }
        lines.join("\n")
    }

    /// Whether everything that was recorded is as here.
    fn same(&self, recorded: &Recorded, ours: &Outcome) -> Result<(), String> {
        let mut wrong: Vec<String> = Vec::new();
        if ours.code != recorded.rc {
            wrong.push(format!("code {} for {}\n", ours.code, recorded.rc));
        }
        if recorded.stdout_sha256.as_ref().is_some_and(|sum| Digest::of(ours.stdout.as_bytes()).hex() != *sum)
        {
            wrong.push(format!("another output: {}\n", ours.stdout));
        }
        if let Some(theirs) = &recorded.stdout {
            let both = [&ours.stdout, theirs].map(|text| self.comparable(text, &recorded.cmd));
            if both[0] != both[1] {
                wrong.push(format!("output\n{}\nfor\n{}\n", both[0], both[1]));
            }
        }
        if let Some(theirs) = recorded.stderr.as_deref().filter(|_| recorded.rc != 0) {
            let said = ours.stderr.lines().find(|line| line.starts_with("soci: ")).unwrap_or_default();
            if said != theirs.replace(THEIRS, &self.host).trim_end() {
                wrong.push(format!("error\n{said}\nfor\n{theirs}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}

/// Replays a case on a containerd of its own. `differ` are labels (or beginnings of them) and why our output is another one.
fn replay(name: &str, host: &str, differ: &[(&str, &str)]) -> Place {
    let place = place(host);
    replay_at(&place, name, differ);
    place
}

fn replay_at(place: &Place, name: &str, differ: &[(&str, &str)]) {
    let case = case(name);
    let mut failures: Vec<String> = Vec::new();
    for recorded in &case.commands {
        let outcome = place.run(recorded);
        let why = differ.iter().find(|(label, _)| recorded.label.starts_with(label)).map(|(_, why)| *why);
        match (place.same(recorded, &outcome), why) {
            (Ok(()), None) | (Err(_), Some(_)) => {}
            (Ok(()), Some(why)) => {
                failures.push(format!("{}: no longer differs ({why})", recorded.label));
            }
            (Err(wrong), None) => {
                failures.push(format!("{}: {}\n{wrong}\n{}", recorded.label, recorded.cmd, outcome.stderr));
            }
        }
    }
    assert!(failures.is_empty(), "{name}:\n{}", failures.join("\n"));
    for (file, theirs) in &case.files {
        let digest = Digest::of(theirs.as_bytes()).to_string();
        assert_eq!(place.containerd.ctr_ok(&["content", "get", &digest]), *theirs, "{name}: {file}");
    }
}

#[test]
fn convert_v2() {
    let place = replay("convert_v2", THEIRS, &[]);
    let index = Digest::of(case("convert_v2").files["image_index.json"].as_bytes()).to_string();
    let images = place.containerd.ctr_ok(&["images", "ls"]);
    let line = images.lines().find(|line| line.starts_with("127.0.0.1:5601/small:convert_v2")).unwrap();
    assert!(line.contains(&index), "{images}");
}

#[test]
fn convert_v2_with_prefetch() {
    replay("convert_v2_pf", THEIRS, &[]);
}

#[test]
fn rm_rebuild() {
    let as_layer = "after rebuild-db upstream takes prefetch artifacts for zTOCs";
    replay(
        "rm_rebuild",
        THEIRS,
        &[
            ("32_ztoc_ls", as_layer),
            ("33_ztoc_ls", as_layer),
            ("34_prefetch_ls", as_layer),
            ("35_prefetch_ls", as_layer),
            ("41_ztoc_info_fae7", as_layer),
        ],
    );
}

#[test]
fn getfile() {
    let place = replay("getfile", THEIRS, &[("21_getfile_nosuch", "upstream prints an empty cause")]);
    let written = fs::metadata(place.soci.dir().join("out/app_config.json.d17f")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&written.permissions());
    assert_eq!(mode & 0o777, 0o644, "upstream writes files that nobody can read");
}

#[test]
fn push_v1() {
    let registry = DockerRegistry::new();
    let place = place(&registry.host());
    place.containerd.ctr_ok(&[
        "images",
        "push",
        "--plain-http",
        &format!("{}/small:latest", registry.host()),
    ]);
    let reason = "the image's manifest is the registry's: nothing is said of it";
    replay_at(&place, "push_v1", &[("02_push_debug", reason)]);
}

/// Every error, in the same words.
#[test]
fn errors() {
    let help = "the text is ours, and goes where errors go";
    replay(
        "errors",
        THEIRS,
        &[
            (
                "09_create_platform_linux_arm64_127.0.0.1:5601_small:lat",
                "an image of another platform than the one that was asked for is an error",
            ),
            ("10_create_bogus", help),
            ("23_push", "loopback registries are always spoken to without TLS, so the push goes on"),
            (
                "27_convert",
                "converted images live in containerd's store: zTOCs of another store are not taken",
            ),
            ("29_convert_standalone_format", help),
            ("31_nosuch", "an unknown command is an error like others: exit code 1, for upstream 3"),
            ("32_none", help),
        ],
    );
}
