//! `soci trace`: recordings shown, exported, imported, and used for an index.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use harness::daemon::program;
use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::soci::Soci;
use soci_core::image::Descriptor;
use soci_core::media_type::OCI_LAYER_GZIP;

const LOG: &str = r#"7 1000000000.000000 execve("/bin/app", ["app"], 0x7ff /* 3 vars */) = 0 <0.000200>
7 1000000000.000300 openat(AT_FDCWD, "/lib/x.so", O_RDONLY|O_CLOEXEC) = 3 <0.000010>
7 1000000000.000400 read(3, "\177ELF"..., 832) = 832 <0.000020>
7 1000000000.000500 pread64(3, ""..., 4096, 500000) = 4096 <0.001000>
7 1000000000.000600 openat(AT_FDCWD, "/proc/self/maps", O_RDONLY) = 4
7 1000000000.000700 read(4, ""..., 4096) = 1000
7 1000000000.000800 exit_group(0) = ?
7 1000000000.000900 +++ exited with 0 +++
"#;

/// A place with an image of two layers and a log of strace's.
fn place() -> (Soci, Vec<Descriptor>) {
    let soci = Soci::new();
    let low = TarWriter::default()
        .file("bin/app", &half_random(10_000, 1))
        .file("lib/x.so", b"old")
        .file("lib/y.so", b"y")
        .finish();
    let high = TarWriter::default().file("lib/x.so", &half_random(1 << 20, 2)).finish();
    let blobs = [(OCI_LAYER_GZIP, gzip(&low, 6)), (OCI_LAYER_GZIP, gzip(&high, 6))];
    let layers = disk_image::write(&soci.dir().join("image"), "v1", &blobs);
    std::fs::write(soci.dir().join("app.log"), LOG).unwrap();
    (soci, layers)
}

fn import(soci: &Soci, format: &str, more: &[&str]) -> harness::soci::Outcome {
    soci.run([&["trace", "import", "--format", format, "--image", "oci:image"], more].concat())
}

#[test]
fn a_log_becomes_a_trace_that_makes_an_index() {
    let (soci, layers) = place();
    let outcome = import(&soci, "strace", &["app.log"]);
    assert!(
        outcome.stderr.contains("note: 1 uses of paths that are no files of the image"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("the first: /proc/self/maps"), "{}", outcome.stderr);
    assert_eq!(outcome.ok(), "app.trace: 3 accesses\n");

    let info = soci.run(["trace", "info", "app.trace"]).ok();
    for text in [
        "image:       oci:image",
        "format:      version 2, flags 0x0, sealed, page cache not known",
        "engine:      import:strace",
        "read:        2 files",
        "kinds:       2 read, 0 fault, 0 map, 1 exec, 0 open",
        "processes:   1",
        "bytes for each access",
    ] {
        assert!(info.contains(text), "{text}: {info}");
    }
    let info: serde_json::Value =
        serde_json::from_str(&soci.run(["trace", "info", "--json", "app.trace"]).ok()).unwrap();
    assert_eq!(info["header"]["layers"][1]["digest"], layers[1].digest.to_string());
    assert_eq!((&info["sealed"], &info["summary"]["accesses"]), (&true.into(), &3.into()));
    assert_eq!(info["summary"]["layers"][1]["bytes"], 832 + 4096);

    let dump = soci.run(["trace", "dump", "app.trace"]).ok();
    let lines: Vec<&str> = dump.lines().collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[2],
        "    0.000500000 start read      500000+4096        1.000ms layer 1 app[7] /lib/x.so"
    );
    let created = soci.run(["create", "--min-layer-size", "0", "--trace", "app.trace", "oci:image"]);
    assert!(!created.stderr.contains("warning"), "{}", created.stderr);
    assert_eq!(created.ok().matches("Created prefetch artifact").count(), 2);
}

#[test]
fn every_format_goes_out_and_the_lists_come_back() {
    let (soci, _) = place();
    import(&soci, "strace", &["app.log"]).ok();
    let export = |format: &str, trace: &str| soci.run(["trace", "export", "-f", format, trace]).ok();
    let rows = export("jsonl", "app.trace");
    let keys = ["t_ns", "phase", "path", "layer", "offset", "length", "kind", "pid", "comm", "wait_ns"];
    for line in rows.lines() {
        let row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        assert_eq!(row.len(), keys.len());
        assert!(keys.iter().all(|key| row.contains_key(*key)), "{line}");
    }
    std::fs::write(soci.dir().join("rows"), &rows).unwrap();
    import(&soci, "jsonl", &["-o", "again.trace", "rows"]).ok();
    assert_eq!(export("jsonl", "again.trace"), rows);

    assert_eq!(export("paths", "app.trace"), "/bin/app\n/lib/x.so\n");
    assert_eq!(export("csv", "app.trace").lines().count(), 4);
    let timeline: serde_json::Value = serde_json::from_str(&export("perfetto", "app.trace")).unwrap();
    assert!(timeline["traceEvents"].as_array().unwrap().len() > 3);
    for format in ["paths", "stargz", "nydus", "nydus-csv", "nydus-json", "overlaybd"] {
        soci.run(["trace", "export", "-f", format, "--overwrite", "-o", "list", "app.trace"]).ok();
        assert_eq!(std::fs::read_to_string(soci.dir().join("list")).unwrap(), export(format, "app.trace"));
        import(&soci, format, &["--overwrite", "-o", "list.trace", "list"]).ok();
        assert_eq!(export("paths", "list.trace"), "/bin/app\n/lib/x.so\n", "{format}");
    }
}

#[test]
fn what_fails_leaves_nothing_behind() {
    let (soci, _) = place();
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(soci.dir())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    std::fs::write(soci.dir().join("list"), "{\"path\":\"bin/app\"}\noops\n").unwrap();
    let before = names();
    assert_eq!(
        import(&soci, "stargz", &["list"]).failed(),
        "soci: cannot import list: line 2: no entry of a stargz record: expected value at line 1 column 1"
    );
    assert!(import(&soci, "paths", &["none"]).failed().starts_with("soci: cannot open none"));
    assert!(soci.run(["trace", "info", "list"]).failed().ends_with("not a trace file (wrong magic)"));
    assert_eq!(names(), before);

    import(&soci, "strace", &["app.log"]).ok();
    let again = import(&soci, "strace", &["app.log"]);
    assert_eq!(again.failed(), "soci: app.trace is there already");
    let whole = std::fs::read(soci.dir().join("app.trace")).unwrap();
    std::fs::write(soci.dir().join("torn.trace"), &whole[..whole.len() - 3]).unwrap();
    let torn = soci.run(["trace", "dump", "torn.trace"]);
    assert!(torn.stderr.contains("warning: trace torn.trace: it is cut after byte"), "{}", torn.stderr);
    assert_eq!(torn.ok().lines().count(), 3);
    assert!(soci.run(["trace", "info", "torn.trace"]).ok().contains("torn after byte"));
    let refused = soci.run(["create", "--min-layer-size", "0", "--trace", "torn.trace", "oci:image"]);
    assert!(refused.failed().starts_with("soci: trace torn.trace is incomplete: it is cut after byte"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (soci, _) = place();
    let mut log = LOG.to_owned();
    for _ in 0..20_000 {
        log += "7 1000000001.000000 pread64(3, \"\"..., 1, 0) = 1\n";
    }
    std::fs::write(soci.dir().join("app.log"), log).unwrap();
    import(&soci, "strace", &["app.log"]).ok();
    for words in [&["dump"][..], &["export", "-f", "jsonl"], &["export", "-f", "perfetto"]] {
        let mut command = Command::new(program("soci"));
        command.current_dir(soci.dir()).arg("trace").args(words).arg("app.trace");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && stderr.is_empty(), "{words:?}: {stderr}");
    }
}
