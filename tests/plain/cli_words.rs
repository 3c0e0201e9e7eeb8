//! What `soci` says about what it was told: errors name the file and the reason once, hints are true, flags mean one thing, and
//! `--help` says all of it.

use std::fs;
use std::process::Command;

use harness::daemon::program;
use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::soci::{Outcome, Soci};
use soci_core::media_type::OCI_LAYER_GZIP;

fn place() -> Soci {
    let soci = Soci::new();
    let tar = TarWriter::default().file("a", &half_random(400_000, 1)).finish();
    disk_image::write(&soci.dir().join("image"), "v1", &[(OCI_LAYER_GZIP, gzip(&tar, 6))]);
    soci
}

fn run(soci: &Soci, words: &str) -> Outcome {
    soci.run(words.split(' '))
}

#[test]
fn errors_name_the_file_and_the_reason_once() {
    let soci = place();
    fs::create_dir(soci.dir().join("dir")).unwrap();
    for (words, error) in [
        ("trace info nothing", "soci: cannot read trace nothing: no such file or directory"),
        ("trace info dir", "soci: cannot read trace dir: is a directory"),
        ("report nothing", "soci: cannot read trace nothing: no such file or directory"),
        ("create --trace nothing oci:image", "soci: cannot read trace nothing: no such file or directory"),
        ("create oci-archive:nothing", "soci: cannot read nothing: no such file or directory"),
        (
            "trace export -f csv -o no/x own.trace",
            "soci: cannot read trace own.trace: no such file or directory",
        ),
        (
            "trace import -f paths --image oci:image -o x nothing",
            "soci: cannot open nothing: no such file or directory",
        ),
        ("man --dir image/oci-layout/x", "soci: cannot make image/oci-layout/x: not a directory"),
        (
            "create --tlscacert nothing docker://127.0.0.1:1/a",
            "soci: cannot read nothing: no such file or directory",
        ),
    ] {
        let said = run(&soci, words).failed();
        assert_eq!(said, error, "{words}");
    }
}

#[test]
fn a_compressed_archive_is_named_as_that() {
    let soci = place();
    let files = [
        ("img.tar.gz", gzip(b"anything", 6), "gzip"),
        ("img.tar.zst", vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0], "zstd"),
    ];
    for (name, bytes, format) in files {
        fs::write(soci.dir().join(name), bytes).unwrap();
        for words in [format!("create oci-archive:{name}"), format!("convert --standalone {name} out")] {
            let outcome = run(&soci, &words);
            assert_eq!(outcome.code, 1);
            let reason = format!("{name} is compressed with {format}: decompress it first");
            assert!(outcome.stderr.contains(&reason), "{words}: {}", outcome.stderr);
            assert!(outcome.stderr.contains(" FILE makes the tar\n"), "{words}: {}", outcome.stderr);
        }
    }
}

#[test]
fn lists_of_paths_in_odd_encodings_are_read_or_named() {
    let soci = place();
    let create = |list: &[u8]| {
        fs::write(soci.dir().join("list.json"), list).unwrap();
        run(&soci, "create --min-layer-size 0 --prefetch-files-json list.json oci:image")
    };
    let made = create(b"\xef\xbb\xbf[\"/a\"]");
    assert!(made.code == 0 && made.stdout.contains("Created prefetch artifact"), "{}", made.stderr);
    let utf16: Vec<u8> = "\u{feff}[\"/a\"]".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let refused = create(&utf16);
    assert!(
        refused.stderr.contains("failed to parse JSON: list.json: the file is UTF-16"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("hint: save it as UTF-8"), "{}", refused.stderr);
    for list in [&b"[\"/a\",]"[..], b"{\"files\": []}", b"\xff", b""] {
        let refused = create(list);
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains("failed to parse JSON: list.json: "), "{}", refused.stderr);
    }
    for list in [&b"[]"[..], b"null"] {
        let made = create(list);
        assert!(
            made.code == 0 && made.stderr.contains("warning: list.json names no paths"),
            "{}",
            made.stderr
        );
    }
    let made = create(b"[\"\", \"/a\"]");
    assert!(
        made.code == 0 && made.stderr.contains("warning: 1 of the paths in list.json are empty"),
        "{}",
        made.stderr
    );
}

#[test]
fn sizes_and_times_are_read_in_the_same_forms_everywhere() {
    let soci = place();
    let digest =
        |words: &str| run(&soci, &format!("create -q --force --min-layer-size 0 {words} oci:image")).ok();
    let want = digest("--span-size 65536");
    for size in ["64K", "64KiB", "64 KiB"] {
        let words = ["create", "-q", "--force", "--min-layer-size", "0K", "--span-size", size, "oci:image"];
        assert_eq!(soci.run(words).ok(), want, "{size}");
    }
    for words in [
        "create --span-size 1x oci:image",
        "create --min-layer-size 1.5MB oci:image",
        "create --fine --fine-span-size 1K oci:image",
        "create --span-gap none oci:image",
        "create --pack --trace x --pack-budget 101% oci:image",
        "record --ring-buffer 3M --rootfs / -- true",
        "index list --timeout 1x",
    ] {
        let outcome = run(&soci, words);
        assert!(
            outcome.code == 1 && outcome.stderr.starts_with("error: invalid value"),
            "{words}: {outcome:?}"
        );
    }
    let soci = Soci::new();
    for time in ["60", "60s", "1m", "1m30s", "60000ms", "0", ".5m"] {
        assert_eq!(soci.run(["index", "list", "-q", "--timeout", time]).ok(), "", "{time}");
    }
}

#[test]
fn a_platform_that_is_named_must_be_there() {
    let soci = place();
    run(&soci, "create -q --min-layer-size 0 -p linux/amd64 oci:image").ok();
    for words in [
        "create --min-layer-size 0 -p linux/arm64 oci:image",
        "create --min-layer-size 0 -p linux/amd64,linux/arm64 oci:image",
        "convert --standalone --min-layer-size 0 -p linux/arm64 oci:image out",
        "pack create --trace x -p linux/arm64 oci:image",
    ] {
        let outcome = run(&soci, words);
        if words.starts_with("pack") {
            assert_eq!(outcome.code, 1, "the trace is not there");
            continue;
        }
        assert!(
            outcome.stderr.contains("soci: image manifest for linux/arm64: not found\nhint: "),
            "{words}: {outcome:?}"
        );
        assert!(outcome.stderr.contains("is one image, for linux/amd64"), "{words}: {outcome:?}");
    }
    assert_eq!(run(&soci, "index list -q").ok().lines().count(), 1, "nothing was made of the other platform");
}

#[test]
fn a_record_whose_blob_is_gone_says_how_to_go_on() {
    let soci = place();
    let index = run(&soci, "create -q --min-layer-size 0 oci:image").ok();
    let index = index.trim_end();
    fs::remove_file(soci.dir().join("root/content/blobs/sha256").join(&index["sha256:".len()..])).unwrap();
    let outcome = run(&soci, &format!("index info {index}"));
    assert_eq!(
        outcome.stderr,
        format!(
            "soci: {index} not found\nhint: its record is older than the store: soci rebuild-db drops records of what is gone; then create it again\n"
        )
    );
    run(&soci, "rebuild-db").ok();
    assert_eq!(run(&soci, "index list -q").ok(), "");
}

#[test]
fn both_programs_say_who_they_are() {
    let soci = place();
    let version = run(&soci, "--version").ok();
    assert!(version.starts_with("soci 0.1.0 ("), "{version}");
    assert_eq!((run(&soci, "-v").ok(), run(&soci, "-V").ok()), (version.clone(), version.clone()));
    let output = Command::new(program("soci-snapshotter-grpc")).arg("--version").output().unwrap();
    let daemon = String::from_utf8(output.stdout).unwrap();
    assert_eq!(daemon.strip_prefix("soci-snapshotter-grpc"), version.strip_prefix("soci"));
}

#[test]
fn help_keeps_the_flags_of_a_command_together_and_names_exit_codes() {
    let soci = place();
    for words in
        ["create", "convert", "push", "index list", "ztoc list", "doctor", "record", "run", "trace info"]
    {
        let help = run(&soci, &format!("{words} --help")).ok();
        let global = help.find("\nGlobal:").unwrap_or_else(|| panic!("{words}: {help}"));
        for flag in ["--root", "--content-store", "--address", "--namespace", "--timeout", "--debug"] {
            let at = help.find(&format!(" {flag} ")).or(help.find(&format!(" {flag}\n"))).unwrap();
            assert!(at > global, "{words}: {flag} is global: {help}");
        }
    }
    let create = run(&soci, "create --help").ok();
    let at = |text: &str| create.find(text).unwrap_or_else(|| panic!("{text}: {create}"));
    assert!(at("--span-size") < at("\nInput:") && at("\nInput:") < at("--platform"), "{create}");
    assert!(at("--platform") < at("\nRegistry:") && at("--hosts-dir") < at("\nPlanning:"), "{create}");
    for heading in ["\nRegistry:", "\nPlanning:", "\nOutput:", "\nExamples:"] {
        assert!(create.contains(heading), "{heading}: {create}");
    }
    assert!(run(&soci, "--help").ok().contains("\nExit codes:\n"), "of the program");
    run(&soci, "man --dir pages").ok();
    let page = fs::read_to_string(soci.dir().join("pages/soci.1")).unwrap();
    assert!(page.contains(".SH \"EXIT STATUS\""), "{page}");
}

/// Every command, by its manual page.
#[test]
fn every_command_has_an_example() {
    let soci = place();
    run(&soci, "man --dir pages").ok();
    let mut without = Vec::new();
    for page in fs::read_dir(soci.dir().join("pages")).unwrap() {
        let path = page.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        // A command with commands of its own has theirs.
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !text.contains(".SH EXAMPLES") && !text.contains(".SH SUBCOMMANDS") {
            without.push(name);
        }
    }
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn log_lines_have_colours_on_terminals_only() {
    let soci = place();
    let words = "--debug --timeout 20s index list --remote 127.0.0.1:1/a:1 --http-dump";
    let piped = run(&soci, words);
    assert_eq!((piped.code, piped.stdout.as_str()), (1, ""));
    assert!(!piped.stderr.contains('\x1b'), "{:?}", piped.stderr);
    assert!(piped.stderr.contains("hint: nothing listens at that address"), "{}", piped.stderr);
}
