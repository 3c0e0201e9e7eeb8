//! `soci profile simulate`, and what else the model decides.

use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::soci::Soci;
use serde_json::Value;
use soci_core::media_type::OCI_LAYER_GZIP;

/// A workload that reads a page of each of two files, and works for a second.
const LOG: &str = r#"7 1000000000.000000 execve("/bin/app", ["app"], 0x7ff /* 3 vars */) = 0 <0.000200>
7 1000000000.100000 openat(AT_FDCWD, "/lib/large", O_RDONLY|O_CLOEXEC) = 3 <0.000010>
7 1000000000.200000 pread64(3, ""..., 4096, 800000) = 4096 <0.000010>
7 1000000000.900000 pread64(3, ""..., 4096, 6000000) = 4096 <0.000010>
7 1000000001.000000 exit_group(0) = ?
7 1000000001.000000 +++ exited with 0 +++
"#;

/// An image of two layers with a trace of its workload.
fn place() -> Soci {
    let soci = Soci::new();
    let base = TarWriter::default().file("bin/app", &half_random(100_000, 1)).finish();
    let library = TarWriter::default().file("lib/large", &half_random(12 << 20, 2)).finish();
    let blobs = [base, library].map(|tar| (OCI_LAYER_GZIP, gzip(&tar, 6)));
    disk_image::write(&soci.dir().join("image"), "v1", &blobs);
    std::fs::write(soci.dir().join("app.log"), LOG).unwrap();
    soci.run(["trace", "import", "--format", "strace", "--image", "oci:image", "app.log"]).ok();
    soci
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn starts_are_predicted_for_each_link_and_way() {
    let soci = place();
    soci.run(["profile", "create", "--trace", "app.trace", "--image", "oci:image", "-o", "app.profile"]).ok();
    let of = |evidence: &str| {
        let words = ["profile", "simulate", evidence, "oci:image", "--json", "--min-layer-size", "0"];
        let text = soci.run(
            [&words[..], &["--link", "5ms/100Mbit,100ms/1Mbit", "--svg", "a.svg", "--overwrite"]].concat(),
        );
        text.ok()
    };
    let text = of("app.profile");
    assert_eq!(of("app.trace"), text, "a trace is a profile of one run; and the same gives the same");
    let document = json(&text);
    let links = document["links"].as_array().unwrap();
    assert_eq!((links.len(), &document["advice"]), (2, &"parts".into()), "{document}");
    for link in links {
        let ready = |mode: &str| {
            let starts = link["starts"].as_array().unwrap();
            starts.iter().find(|start| start["mode"] == mode).unwrap()["ready_s"].as_f64().unwrap()
        };
        let bound = link["bound_s"].as_f64().unwrap();
        assert!(bound >= 0.9 && bound <= ready("pack") && ready("pack") < ready("full"), "{link}");
    }
    // Over a megabit a second, all of the image takes as long as its bytes do.
    let size = document["compressed_bytes"].as_f64().unwrap();
    assert!(links[1]["starts"][0]["ready_s"].as_f64().unwrap() > size / 125e3);
    let drawing = std::fs::read_to_string(soci.dir().join("a.svg")).unwrap();
    assert!(drawing.starts_with("<svg") && drawing.matches("<rect").count() == 8, "{drawing}");
    let table = soci.run(["profile", "simulate", "app.profile", "oci:image", "--mode", "pack"]).ok();
    assert_eq!(table.lines().count(), 2 + 2 * 3, "{table}");
}

#[test]
fn a_condition_fails_the_command_when_it_is_true() {
    let soci = place();
    let judge = |condition: &str, words: &[&str]| {
        soci.run([&["profile", "simulate", "app.trace", "oci:image", "--fail-if", condition], words].concat())
    };
    judge("ready > 100*bound", &[]).ok();
    let failed = judge("full > 1.001*bound", &["--link", "1ms/1Mbit"]);
    assert_eq!(failed.code, 1);
    assert!(failed.stderr.contains("--fail-if is true for the link 1ms/1Mbit"), "{}", failed.stderr);
    assert!(failed.stdout.contains("% bound"), "the table is printed all the same: {}", failed.stdout);
    assert!(judge("lazy > 1s", &["--mode", "full"]).failed().contains("a mode that is not predicted"));
    for wrong in ["ready", "ready > quick"] {
        let outcome = judge(wrong, &[]);
        assert!(outcome.code != 0 && outcome.stderr.contains("is no condition"), "{}", outcome.stderr);
    }
    let outcome = soci.run(["profile", "simulate", "app.trace", "oci:image", "--link", "5/100"]);
    assert!(outcome.code != 0 && outcome.stderr.contains("is not RTT/BANDWIDTH"), "{}", outcome.stderr);
}

#[test]
fn the_model_chooses_spans_and_gives_advice() {
    let soci = place();
    let create = ["create", "--min-layer-size", "0", "--span-layout", "trace"];
    let evidence = ["--trace", "app.trace", "--advise", "--span-size", "auto", "oci:image"];
    let made = soci.run([&create[..], &evidence].concat());
    assert!(made.stderr.contains("note: spans of "), "{}", made.stderr);
    assert!(made.stderr.contains("a full pull is predicted to be not faster"), "{}", made.stderr);
    made.ok();
    let refused = soci.run(["create", "--span-size", "auto", "oci:image"]);
    assert!(refused.failed().contains("needs to know the workload"));
    soci.run(["pack", "create", "--trace", "app.trace", "--advise", "oci:image"]).ok();
}
