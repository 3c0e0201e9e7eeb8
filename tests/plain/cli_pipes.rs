//! Readers that go away: `soci ... | head -1`. No command panics or complains, work that is under way is finished, and the
//! exit code is that of a program that SIGPIPE has ended. A disk that is full is another matter: an error.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};

use harness::daemon::program;
use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::registry::TestRegistry;
use harness::soci::Soci;
use soci_core::media_type::OCI_LAYER_GZIP;

/// Runs a command whose standard output, and with `both` its standard error, nobody reads. Gives exit code and standard
/// error.
fn unread(soci: &Soci, words: &str, both: bool) -> (i32, String) {
    let mut command = Command::new(program("soci"));
    command.current_dir(soci.dir()).arg("--root").arg(soci.dir().join("root")).args(words.split(' '));
    command.env("CONTAINERD_ADDRESS", soci.dir().join("none")).env("DOCKER_CONFIG", soci.dir());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    if both {
        command.stderr(writer.try_clone().unwrap());
    } else {
        command.stderr(Stdio::piped());
    }
    let output = command.stdin(Stdio::null()).stdout(writer).spawn().unwrap().wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

fn place() -> (Soci, String) {
    let soci = Soci::new();
    let layer = |name: &str, seed| {
        let tar = TarWriter::default().file(name, &half_random(400_000, seed)).finish();
        (OCI_LAYER_GZIP, gzip(&tar, 6))
    };
    disk_image::write(&soci.dir().join("image"), "v1", &[layer("a", 1), layer("b", 2)]);
    let trace = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/pyml-ebpf.trace");
    (soci, trace.display().to_string())
}

#[test]
fn work_goes_on_when_nobody_reads_and_the_exit_code_says_so() {
    let (soci, trace) = place();
    let lines = format!("{}/list", soci.dir().display());
    std::fs::write(&lines, "/a\n/b\n").unwrap();
    soci.run(["trace", "import", "-f", "paths", "--image", "oci:image", "-o", "own.trace", &lines]).ok();
    let registry = TestRegistry::start();
    let image = registry.image("app:v1");
    let create = "create --min-layer-size 0 --span-size 65536 --fine --pack --trace own.trace oci:image";
    let (code, said) = unread(&soci, create, false);
    let is_summary =
        |line: &str| ["plan: ", "prefetch: ", "pack: "].iter().any(|word| line.starts_with(word));
    assert!(code == 141 && said.lines().all(is_summary), "{code}: {said}");
    let pack = soci.run(["pack", "list", "--json"]).ok();
    assert!(pack.contains("\"digest\""), "the pack, which comes last, is there: {pack}");
    assert_eq!(unread(&soci, &format!("push --image oci:image {image}"), false).0, 141);
    let remote = soci.run(["index", "list", "--remote", &image, "-q"]).ok();
    assert_eq!(remote.lines().count(), 1, "{remote}");
    assert_eq!(
        unread(&soci, "convert --standalone --min-layer-size 0 --format oci-dir oci:image out", true).0,
        141
    );
    assert!(soci.dir().join("out/index.json").exists());
    assert_eq!(
        unread(&soci, &format!("trace export -f jsonl -o out.jsonl {trace}"), false),
        (0, String::new())
    );
}

#[test]
fn nothing_that_prints_panics_or_complains() {
    let (soci, trace) = place();
    let lines = format!("{}/list", soci.dir().display());
    std::fs::write(&lines, "/a\n/b\n").unwrap();
    soci.run(["trace", "import", "-f", "paths", "--image", "oci:image", "-o", "own.trace", &lines]).ok();
    soci.run("create --min-layer-size 0 --fine --pack --trace own.trace oci:image".split(' ')).ok();
    let first = |words: &str| soci.run(words.split(' ')).ok().lines().next().unwrap_or_default().to_owned();
    let index = first("index list -q");
    let ztoc = first("ztoc list -q");
    let json =
        |words: &str| serde_json::from_str::<serde_json::Value>(&soci.run(words.split(' ')).ok()).unwrap();
    let prefetch = json("prefetch list --json")[0]["Digest"].as_str().unwrap().to_owned();
    let pack = json("pack list --json")[0]["digest"].as_str().unwrap().to_owned();
    let file = if soci.run(["ztoc", "get-file", &ztoc, "a"]).code == 0 { "a" } else { "b" };
    let commands = [
        "index list".to_owned(),
        "index list --json".to_owned(),
        format!("index info {index}"),
        "ztoc list".to_owned(),
        format!("ztoc info {ztoc}"),
        format!("ztoc get-file {ztoc} {file}"),
        "prefetch list".to_owned(),
        format!("prefetch info {prefetch}"),
        "pack list".to_owned(),
        format!("pack info {pack}"),
        format!("pack verify {pack} oci:image"),
        format!("trace info {trace}"),
        format!("trace dump {trace}"),
        format!("trace diff {trace} {trace}"),
        format!("trace export -f jsonl {trace}"),
        format!("report {trace}"),
        "man".to_owned(),
        "completion bash".to_owned(),
    ];
    for words in &commands {
        assert_eq!(unread(&soci, words, false), (141, String::new()), "{words}");
        assert_eq!(unread(&soci, words, true).0, 141, "{words}, and nobody reads its errors");
    }
    let (code, errors) = unread(&soci, "doctor", false);
    assert!([141, 1].contains(&code) && !errors.contains("panicked"), "{code} {errors}");
    // Errors that nobody reads are still errors.
    for words in ["index info x", "create oci:nothing", "trace info nothing", "nonsense"] {
        assert_eq!(unread(&soci, words, true).0, 1, "{words}");
    }
    for words in ["--help", "create --help", "--version"] {
        assert_eq!(unread(&soci, words, false), (141, String::new()), "{words}");
    }
}

#[test]
fn a_disk_that_is_full_is_an_error() {
    let (soci, trace) = place();
    let words =
        ["completion bash", "index list", "--help", "-h", "--version", "help create", "pack push --help"];
    for words in words.map(str::to_owned).into_iter().chain([format!("trace dump {trace}")]) {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(program("soci"));
        command.arg("--root").arg(soci.dir().join("root")).args(words.split(' ')).stdout(full);
        let output = command.env("CONTAINERD_ADDRESS", soci.dir().join("none")).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{words}: {errors}");
        assert_eq!(errors, "soci: cannot write to standard output: no space left on device\n", "{words}");
    }
}
