//! `soci run` against a registry: the whole chain from a recording to a start with prefetch, in every mode, cold and
//! warm; exit codes, failures, and nothing left behind. Needs root and FUSE.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use harness::daemon::program;
use harness::docker_registry::DockerRegistry;
use harness::layout;
use harness::machine::{mounts_mentioning, processes_mentioning};
use harness::registry::{AuthMode, Habits, PASSWORD, TestRegistry, USER};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use soci_core::digest::Digest;
use soci_core::media_type;

const READ: [&str; 8] = ["read", "/data/big", "4000000", "8192", "read", "/data/old", "0", "100"];

/// A directory with an image of two layers: the program and a big file that does not compress, then a change.
fn home() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(module_path!().replace("::", "-"));
        let _ = fs::remove_dir_all(&dir); // of an earlier run
        let (low, high) = (dir.join("low"), dir.join("high"));
        layout::compile_workload(&low.join("bin/do"));
        fs::set_permissions(low.join("bin/do"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(low.join("data")).unwrap();
        fs::create_dir_all(high.join("data")).unwrap();
        let mut state = 1u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        fs::write(low.join("data/big"), noise.take(8 << 20).collect::<Vec<u8>>()).unwrap();
        fs::write(low.join("data/old"), "old").unwrap();
        fs::write(low.join("data/gone"), "gone").unwrap();
        fs::write(high.join("data/old"), "new").unwrap();
        fs::write(high.join("data/.wh.gone"), "").unwrap();
        let process = json!({"Env": ["PATH=/bin"], "Entrypoint": ["do"], "Cmd": ["say", "default"]});
        layout::write(&dir.join("image"), &[low, high], &process);
        dir
    })
}

fn soci(words: &[&str]) -> Output {
    let mut command = Command::new(program("soci"));
    command.env_remove("RUST_LOG").env("DOCKER_CONFIG", home()).args(words).stdin(Stdio::null());
    command.output().unwrap()
}

#[track_caller]
fn succeed(words: &[&str]) -> Output {
    let output = soci(words);
    assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Records [`READ`]; gives the trace, which is in a directory.
fn record(dir: &Path) -> String {
    let layout = format!("oci:{}", home().join("image").display());
    let (state, out) = (home().join("state"), dir.join("out"));
    let record = ["record", "--image", &layout, "--state", state.to_str().unwrap(), "--name", "t", "--out"];
    succeed(&[&record[..], &[out.to_str().unwrap(), "--", "do"], &READ].concat());
    out.join("t.trace").to_string_lossy().into_owned()
}

/// The image with a recorded index in a registry of its own.
fn recorded() -> (TestRegistry, String) {
    recorded_with(&["--span-layout", "upstream", "--no-fine", "--no-pack"])
}

/// The same, made with more flags.
fn recorded_with(flags: &[&str]) -> (TestRegistry, String) {
    let registry = TestRegistry::start();
    let image = format!("{}:1", registry.image("team/app"));
    let dir = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}", home().join("image").display());
    let store = dir.path().join("store").to_string_lossy().into_owned();
    let trace = record(dir.path());
    let create = ["--root", &store, "create", &layout, "--span-size", "262144", "--min-layer-size", "0"];
    succeed(&[&create[..], &["--trace", &trace], flags].concat());
    succeed(&["--root", &store, "push", "--image", &layout, &image]);
    (registry, image)
}

/// The image without any index.
fn bare() -> (TestRegistry, String) {
    let registry = TestRegistry::start();
    let image = put_bare(&registry);
    (registry, image)
}

/// Puts the image without any index into a registry.
fn put_bare(registry: &TestRegistry) -> String {
    let layout = home().join("image");
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        registry.put_blob(fs::read(blob.unwrap().path()).unwrap());
    }
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest: Digest = index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap();
    let manifest = fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap();
    registry.put_manifest("team/app", Some("1"), media_type::OCI_MANIFEST, manifest);
    format!("{}:1", registry.image("team/app"))
}

/// Runs the workload of [`READ`] and more in a mode; gives what it said and the report.
#[track_caller]
fn run(image: &str, flags: &[&str], words: &[&str]) -> (String, Value) {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.json");
    let head = ["run", image, "--report", report.to_str().unwrap()];
    let output = succeed(&[&head[..], flags, &["--", "do"], words].concat());
    (text(&output.stdout), serde_json::from_slice(&fs::read(report).unwrap()).unwrap())
}

fn counter(report: &Value, name: &str) -> u64 {
    report["counters"][name].as_f64().unwrap_or_else(|| panic!("{name} in {report}")) as u64
}

#[test]
fn every_mode_serves_the_image_and_prefetch_brings_what_was_recorded() {
    let (_registry, image) = recorded();
    let words = [
        &READ[..],
        &[
            "exists",
            "/data/gone",
            "exists",
            "/data/old",
            "write",
            "/data/new",
            "say",
            "READY",
            "sleep",
            "60000",
        ],
    ]
    .concat();
    let mut reports = Vec::new();
    for mode in ["full", "lazy", "prefetch"] {
        let (said, report) = run(&image, &["--mode", mode, "--until", "log:^READY$"], &words);
        assert_eq!(said, "/data/gone no\n/data/old yes\nREADY\n", "{mode}");
        assert_eq!((&report["mode"], &report["outcome"]), (&json!(mode), &json!("ready")));
        assert_eq!((&report["layers"], &report["layers_present"]), (&json!(2), &json!(0)));
        let time = |name: &str| report[name].as_f64().unwrap();
        assert!(time("pull_s") <= time("start_s") && time("start_s") <= time("ready_s"), "{report}");
        reports.push(report);
    }
    let [full, lazy, prefetch] = &reports[..] else { unreachable!("three modes") };
    assert_eq!(counter(full, "soci_fuse_mounts_total"), 0);
    assert_eq!(counter(lazy, "soci_prefetch_spans_total"), 0);
    assert!(counter(lazy, "soci_fuse_mounts_total") == 2 && counter(prefetch, "soci_fuse_mounts_total") == 2);
    assert!(counter(prefetch, "soci_prefetch_spans_total") > 0, "{prefetch}");
    assert!(full["bytes"].as_u64().unwrap() > 8 << 20, "{full}");
}

#[test]
fn an_image_without_an_index_is_pulled_whole_in_every_mode() {
    let (_registry, image) = bare();
    for mode in ["full", "lazy", "prefetch"] {
        let (said, report) = run(&image, &["--mode", mode], &[&READ[..], &["exists", "/data/gone"]].concat());
        assert_eq!(said, "/data/gone no\n", "{mode}");
        assert_eq!(counter(&report, "soci_fuse_mounts_total"), 0, "{mode}");
    }
}

#[test]
fn the_second_start_on_a_root_finds_its_layers() {
    let (registry, image) = recorded();
    for mode in ["full", "prefetch"] {
        let root = tempfile::tempdir().unwrap();
        let flags = ["--mode", mode, "--root", root.path().to_str().unwrap()];
        let (_, cold) = run(&image, &flags, &READ);
        assert_eq!(cold["layers_present"], 0, "{mode}");
        registry.forget_requests();
        let (_, warm) = run(&image, &flags, &READ);
        assert_eq!(warm["layers_present"], 2, "{mode}: {warm}");
        if mode == "full" {
            let requests = registry.requests();
            assert!(requests.iter().all(|request| request.range.is_none()), "{requests:?}");
        }
        assert_eq!(mounts_mentioning(&root.path().to_string_lossy()), Vec::<String>::new());
    }
}

#[test]
fn what_a_pack_brought_is_enough_for_the_second_start_on_a_root() {
    let (registry, image) = recorded_with(&["--fine", "--pack"]);
    let root = tempfile::tempdir().unwrap();
    let flags = ["--mode", "pack", "--root", root.path().to_str().unwrap()];
    let (_, cold) = run(&image, &flags, &READ);
    assert!(counter(&cold, "soci_pack_blocks_total") > 0, "{cold}");
    registry.forget_requests();
    let (_, warm) = run(&image, &flags, &READ);
    assert_eq!(warm["layers_present"], 2, "{warm}");
    let requests = registry.requests();
    assert!(requests.iter().all(|request| request.range.is_none()), "{requests:?}");
    assert_eq!(counter(&warm, "soci_registry_requests_total"), 0, "{requests:?}");
}

#[test]
fn what_a_copy_by_another_tool_brings_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let (trace, converted) = (record(dir.path()), dir.path().join("converted"));
    let image = home().join("image");
    let convert = ["convert", "--standalone", "--format", "oci-dir", "--min-layer-size", "0"];
    let companions = ["--fine", "--pack", "--trace", &trace];
    let paths = [image.to_str().unwrap(), converted.to_str().unwrap()];
    succeed(&[&convert[..], &companions, &paths].concat());
    let registry = DockerRegistry::new();
    let copied = format!("{}/team/app:1", registry.host());
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--all", "--insecure-policy", "--dest-tls-verify=false"]);
    skopeo.arg(format!("oci:{}", converted.display())).arg(format!("docker://{copied}"));
    assert!(skopeo.stdout(Stdio::null()).status().unwrap().success());
    let (_, report) = run(&copied, &["--mode", "pack"], &READ);
    assert_eq!(counter(&report, "soci_packs_total"), 1, "{report}");
    assert_eq!(counter(&report, "soci_fuse_mounts_total"), 2, "{report}");
    assert_eq!(counter(&report, "soci_demand_spans_total"), 0, "what was recorded is in the pack: {report}");
}

#[test]
fn the_workloads_exit_code_is_passed_on() {
    let (_registry, image) = recorded();
    let code = |words: &[&str]| soci(&[&["run", image.as_str()], words].concat()).status.code();
    assert_eq!(code(&["--", "do", "exit", "42"]), Some(42));
    assert_eq!(code(&[]), Some(0));
    assert_eq!(code(&["--", "/bin/nothing"]), Some(127));
    assert_eq!(code(&["--until", "log:READY", "--", "do", "say", "no"]), Some(4));
    assert_eq!(code(&["--until", "log:READY", "--timeout", "500ms", "--", "do", "sleep", "60000"]), Some(4));
    assert_eq!(
        code(&["--until", "notify", "--timeout", "20", "--", "do", "notify", "READY=1", "sleep", "60000"]),
        Some(0)
    );
    assert_eq!(
        code(&["--until", "exec:do exists /", "--timeout", "20", "--", "do", "sleep", "60000"]),
        Some(0),
        "a command on the snapshotter's mounts"
    );
    assert_eq!(
        code(&["--until", "log:READY", "--wait", "--", "do", "say", "READY", "sleep", "200", "exit", "9"]),
        Some(9)
    );
}

#[test]
fn what_is_missing_is_named() {
    let (registry, image) = recorded();
    let failed = |words: &[&str]| {
        let output = soci(words);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    let message = failed(&["run", "--snapshotter-bin", "/nothing/here", &image]);
    assert!(message.contains("/nothing/here"), "{message}");
    let message = failed(&["run", &format!("{}:2", registry.image("team/app"))]);
    assert!(message.contains("team/app:2"), "{message}");
    let config = home().join("broken.toml");
    fs::write(&config, "this is not TOML").unwrap();
    let message = failed(&["run", "--config", config.to_str().unwrap(), &image]);
    assert!(message.contains("ended at once") && message.contains("broken.toml"), "{message}");
    drop(registry);
    let message = failed(&["run", &image]);
    assert!(message.contains("127.0.0.1"), "{message}");
}

/// Starts a run whose workload has said that it is up.
fn start(image: &str, root: &Path, mark: &str) -> Child {
    let mut command = Command::new(program("soci"));
    command.args(["run", image, "--root"]).arg(root).args([
        "--",
        "do",
        "fork-sleep",
        "say",
        "up",
        "sleep",
        "100000",
        mark,
    ]);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    child
}

#[test]
fn however_it_ends_no_process_and_no_mount_stays() {
    let (_registry, image) = recorded();
    for (signal, code) in [(Signal::TERM, Some(143)), (Signal::INT, Some(130)), (Signal::KILL, None)] {
        let root = tempfile::tempdir().unwrap();
        let mark = root.path().to_string_lossy().into_owned();
        let child = start(&image, root.path(), &mark);
        assert!(processes_mentioning(&mark).iter().any(|(_, line)| line.contains("soci-snapshotter-grpc")));
        kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
        assert_eq!(child.wait_with_output().unwrap().status.code(), code);
        let limit = Instant::now() + Duration::from_mins(1);
        while !processes_mentioning(&mark).is_empty() {
            assert!(Instant::now() < limit, "{:?}", processes_mentioning(&mark));
            sleep(Duration::from_millis(10));
        }
        assert_eq!(mounts_mentioning(&mark), Vec::<String>::new());
    }
}

#[test]
fn a_temporary_root_is_removed_and_a_kept_one_is_named() {
    let (_registry, image) = recorded();
    let tmp = tempfile::tempdir().unwrap();
    let entries =
        || fs::read_dir(tmp.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<PathBuf>>();
    let run = |flags: &[&str]| {
        let mut command = Command::new(program("soci"));
        command.env("TMPDIR", tmp.path()).args(["run", &image]).args(flags).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stderr)
    };
    run(&[]);
    assert_eq!(entries(), Vec::<PathBuf>::new());
    let said = run(&["--keep-root"]);
    let [kept] = &entries()[..] else { panic!("{:?}", entries()) };
    assert!(said.contains(&format!("root: {}", kept.display())), "{said}");
}

#[test]
fn a_private_registry_takes_the_credential_of_the_command_for_all_that_is_asked() {
    let registry = TestRegistry::with(Habits { auth: AuthMode::Basic, ..Habits::default() });
    let image = put_bare(&registry);
    let credential = format!("{USER}:{PASSWORD}");
    let denied = soci(&["run", &image]);
    let said = text(&denied.stderr);
    assert!(denied.status.code() == Some(1) && said.contains("--registry-user"), "{said}");
    for mode in ["full", "lazy"] {
        let flags = ["--mode", mode, "--registry-user", &credential, "--until", "exit", "--json"];
        let output = succeed(&[&["run", &image], &flags[..], &["--", "do", "say", "here"]].concat());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["exit_code"], 0, "{report}");
        assert!(text(&output.stderr).contains("here\n"), "the workload's output stands apart");
    }
    let out = tempfile::tempdir().unwrap();
    let record = |flags: &[&str]| {
        let mut command = Command::new(program("soci"));
        command.env("DOCKER_CONFIG", home()).args([
            "--address",
            "/nowhere.sock",
            "record",
            "--engine",
            "fuse",
        ]);
        command.arg("--state").arg(out.path().join("state")).arg("--out").arg(out.path()).args(flags);
        command.args(["--image", &image, "--user", "7", "--", "do", "say", "here"]).stdin(Stdio::null());
        command.output().unwrap()
    };
    let denied = record(&[]);
    assert!(text(&denied.stderr).contains("--registry-user"), "{}", text(&denied.stderr));
    let allowed = record(&["--registry-user", &credential]);
    assert_eq!(allowed.status.code(), Some(0), "{}", text(&allowed.stderr));
}

#[test]
fn an_index_that_does_not_exist_is_an_error_and_what_is_not_measured_is_said() {
    let (_registry, image) = recorded();
    let absent = Digest::of(b"no index").to_string();
    let refused = soci(&["run", "--index-digest", &absent, &image]);
    let said = text(&refused.stderr);
    assert!(
        refused.status.code() == Some(1) && said.contains(&absent) && said.contains("has no index"),
        "{said}"
    );

    let config = home().join("no-metrics.toml");
    fs::write(&config, "[pull_modes.soci_v1]\nenable = true\n").unwrap();
    let flags = ["--config", config.to_str().unwrap(), "--until", "exit"];
    let words = ["--", "do", "say", "here"];
    let report = || {
        let json = succeed(&[&["run", &image], &flags[..], &["--json"], &words].concat());
        serde_json::from_slice::<Value>(&json.stdout).unwrap()
    };
    // The status socket is there without a word in the file.
    let measured = report();
    let (bytes, link) =
        (measured["bytes"].as_u64().unwrap(), measured["start"]["bytes"]["link"].as_u64().unwrap());
    assert!(link > 10_000 && bytes >= link, "{measured:#}");
    assert_eq!(measured["start"]["layers"].as_array().map(Vec::len), Some(2), "{measured:#}");
    fs::write(&config, "[pull_modes.soci_v1]\nenable = true\n[status]\nenable = false\n").unwrap();
    let people = succeed(&[&["run", &image], &flags[..], &words].concat());
    assert!(text(&people.stderr).contains("traffic not measured"), "{}", text(&people.stderr));
    let report = report();
    assert_eq!(
        (&report["bytes"], &report["requests"], &report["counters"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
}

/// In a chroot `/` is no mount, and what is mounted there would be seen outside.
#[test]
fn a_chroot_is_a_machine_like_others() {
    let (_registry, image) = recorded();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/etc/passwd", root.join("etc/passwd")).unwrap();
    for name in ["soci", "soci-snapshotter-grpc"] {
        fs::copy(program(name), root.join("bin").join(name)).unwrap();
        layout::copy_libraries(&program(name), &root);
    }
    let script = "mount --make-rshared /; cd $0; for at in dev proc sys; do mount --rbind /$at $at; done; \
        before=$(wc -l </proc/self/mountinfo); chroot . \"$@\"; test $before = $(wc -l </proc/self/mountinfo)";
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "sh", "-ec", script]).arg(&root).stdin(Stdio::null());
    inside.args(["/bin/soci", "run", "--plain-http", "--json", &image, "--", "do"]).args(READ);
    let output = inside.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(counter(&report, "soci_lazy_layers_resolved_total"), 2, "{report}");
}
