//! `soci profile`: recordings of one build that serve the next one.

use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::soci::Soci;
use serde_json::Value;
use soci_core::media_type::OCI_LAYER_GZIP;

/// What the workload reads: its program, a library, and its code.
const LOG: &str = r#"7 1000000000.000000 execve("/bin/app", ["app", "--password=secret"], 0x7ff /* 3 vars */) = 0 <0.000200>
7 1000000000.000300 openat(AT_FDCWD, "/lib/libx.so.1.2", O_RDONLY|O_CLOEXEC) = 3 <0.000010>
7 1000000000.000400 read(3, "\177ELF"..., 200000) = 200000 <0.000020>
7 1000000000.000500 pread64(3, ""..., 4096, 800000) = 4096 <0.001000>
7 1000000000.000600 openat(AT_FDCWD, "/app/main.py", O_RDONLY) = 4
7 1000000000.000700 read(4, ""..., 4096) = 4000
7 1000000000.000800 exit_group(0) = ?
7 1000000000.000900 +++ exited with 0 +++
"#;

fn layout(soci: &Soci, name: &str, layers: &[Vec<u8>]) {
    let blobs: Vec<_> = layers.iter().map(|tar| (OCI_LAYER_GZIP, gzip(tar, 6))).collect();
    disk_image::write(&soci.dir().join(name), "v1", &blobs);
}

/// Two builds of an image: the second has its layers cut otherwise, a newer library and other code.
fn place() -> Soci {
    let soci = Soci::new();
    let program = half_random(300_000, 1);
    let base = TarWriter::default()
        .file("bin/app", &program)
        .file("lib/libx.so.1.2", &half_random(1 << 20, 2))
        .finish();
    let app = TarWriter::default().file("app/main.py", &half_random(4000, 3)).finish();
    layout(&soci, "one", &[base, app]);
    let base = TarWriter::default().file("bin/app", &program).finish();
    let library = TarWriter::default().file("lib/libx.so.1.3", &half_random(2 << 20, 4)).finish();
    let app = TarWriter::default().file("app/main.py", &half_random(9000, 5)).finish();
    layout(&soci, "two", &[base, library, app]);
    std::fs::write(soci.dir().join("app.log"), LOG).unwrap();
    soci.run(["trace", "import", "--format", "strace", "--image", "oci:one", "app.log"]).ok();
    soci
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_profile_of_one_build_makes_the_pack_of_the_next() {
    let soci = place();
    let made = soci.run([
        "profile",
        "create",
        "--trace",
        "app.trace",
        "--image",
        "oci:one",
        "--name",
        "web",
        "-o",
        "web.profile",
    ]);
    assert!(made.ok().contains("web.profile: 1 runs, 3 files"));
    let document = soci.run(["profile", "info", "--json", "web.profile"]).ok();
    assert!(!document.contains("secret"), "{document}");
    let document = json(&document);
    assert_eq!(document["workload"], "web");
    let paths: Vec<_> =
        document["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["app/main.py", "bin/app", "lib/libx.so.1.2"]);
    assert!(document["files"][1]["digest"].as_str().unwrap().starts_with("sha256:"));
    let info = soci.run(["profile", "info", "web.profile"]).ok();
    for text in ["workload:   web", "3 with their contents known", "bin/app"] {
        assert!(info.contains(text), "{text}: {info}");
    }

    let rebase = ["profile", "rebase", "web.profile", "oci:two", "-o", "two.profile", "--json"];
    let rebased = json(&soci.run(rebase).ok());
    let files = |fate: &str| rebased[fate]["files"].as_u64().unwrap();
    assert_eq!([files("kept"), files("moved"), files("changed"), files("gone")], [1, 0, 2, 0], "{rebased}");
    let two = json(&soci.run(["profile", "info", "--json", "two.profile"]).ok());
    let of = |path: &str| {
        two["files"].as_array().unwrap().iter().find(|file| file["path"] == path).cloned().unwrap()
    };
    assert_eq!(of("app/main.py")["ranges"][0][1], 12288, "a small file is taken whole");
    assert!(of("lib/libx.so.1.3")["trust"].as_u64().unwrap() < 1000);
    assert!(of("bin/app").get("trust").is_none());
    // The same again is the same bytes, and is not written over what is there.
    assert!(soci.run(rebase).failed().contains("is there already"));

    let refused =
        soci.run(["profile", "rebase", "web.profile", "oci:two", "-o", "x.profile", "--min-coverage", "99%"]);
    assert!(refused.failed().contains("is known to be right"));

    // An index of the second build is made from the profile of the first one as from the rebased one.
    let digests = ["web.profile", "two.profile"].map(|profile| {
        let place = format!("root-{profile}");
        let created = soci.run([
            "--root",
            &place,
            "create",
            "--quiet",
            "--min-layer-size",
            "0",
            "--fine",
            "--pack",
            "--profile",
            profile,
            "oci:two",
        ]);
        assert_eq!(
            created.stderr.contains("of another build"),
            profile == "web.profile",
            "{}",
            created.stderr
        );
        created.ok()
    });
    assert_eq!(digests[0], digests[1]);
    let prefetched = soci.run(["--root", "root-web.profile", "prefetch", "list"]).ok();
    assert!(prefetched.lines().count() > 3, "an artifact for each of the three layers: {prefetched}");
}

#[test]
fn the_same_recordings_are_the_same_profile() {
    let soci = place();
    let later = LOG.replace("4096, 800000", "4096, 900000").replace("0.000600", "0.000650");
    std::fs::write(soci.dir().join("later.log"), later).unwrap();
    soci.run(["trace", "import", "--format", "strace", "--image", "oci:one", "later.log"]).ok();
    let create = |words: &[&str], to: &str| {
        soci.run([&["profile", "create", "-o", to], words].concat()).ok();
        std::fs::read(soci.dir().join(to)).unwrap()
    };
    let both = create(&["--trace", "app.trace", "--trace", "later.trace"], "both");
    assert_eq!(create(&["--trace", "later.trace", "--trace", "app.trace"], "other"), both);
    assert_eq!(create(&["--profile", "both", "--trace", "app.trace"], "again"), both);
    create(&["--trace", "app.trace"], "first");
    create(&["--trace", "later.trace"], "second");
    assert_eq!(create(&["--profile", "second", "--profile", "first"], "merged"), both);
    let difference = json(&soci.run(["profile", "diff", "--json", "first", "second"]).ok());
    assert_eq!((&difference["only_a"], &difference["only_b"]), (&8192.into(), &8192.into()), "{difference}");
    assert!(soci.run(["profile", "diff", "first", "second"]).ok().contains("lib/libx.so.1.2"));
}

#[test]
fn what_is_no_profile_is_refused_with_the_reason() {
    let soci = place();
    std::fs::write(
        soci.dir().join("hostile"),
        r#"{"schema":1,"image":{"reference":""},"runs":[],"files":[{"path":"../x","ranges":[[0,1,0,0,0]]}]}"#,
    )
    .unwrap();
    for command in [
        &["profile", "info", "hostile"][..],
        &["create", "--profile", "hostile", "oci:one"],
        &["profile", "rebase", "hostile", "oci:one", "-o", "x"],
    ] {
        let outcome = soci.run(command);
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert!(outcome.stderr.contains("no path of a file in an image"), "{}", outcome.stderr);
    }
    let outcome = soci.run(["create", "--threshold", "any", "oci:one"]);
    assert!(outcome.stderr.contains("give it a --trace or a --profile"), "{}", outcome.stderr);
    let outcome = soci.run(["create", "--trace", "app.trace", "--threshold", "2", "oci:one"]);
    assert!(outcome.code != 0 && outcome.stderr.contains("neither any nor 0 to 1"), "{}", outcome.stderr);
}
