//! `soci optimize` as a new user runs it: one command, and the next cold start takes its bytes from the pack. Needs root and
//! docker-registry.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use harness::daemon::program;
use harness::docker_registry::DockerRegistry;
use harness::layout;
use serde_json::{Value, json};

/// What the workload does: it reads some of the image, and says that it is up.
const STARTS: [&str; 11] =
    ["do", "read", "/data/big", "4000000", "8192", "read", "/data/old", "0", "100", "say", "READY"];

/// A user's machine: an image of two layers, a registry, and a directory to work in.
struct Desk {
    dir: PathBuf,
    registry: DockerRegistry,
}

impl Desk {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("optimize").join(name);
        let _ = fs::remove_dir_all(&dir); // of an earlier run
        let (low, high) = (dir.join("low"), dir.join("high"));
        layout::compile_workload(&low.join("bin/do"));
        fs::set_permissions(low.join("bin/do"), fs::Permissions::from_mode(0o755)).unwrap();
        for layer in [&low, &high] {
            fs::create_dir_all(layer.join("data")).unwrap();
        }
        let mut state = 1u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        fs::write(low.join("data/big"), noise.take(8 << 20).collect::<Vec<u8>>()).unwrap();
        fs::write(low.join("data/old"), "old").unwrap();
        fs::write(high.join("data/old"), "new").unwrap();
        let process = json!({"Env": ["PATH=/bin"], "Entrypoint": STARTS, "Cmd": ["sleep", "60000"]});
        layout::write(&dir.join("image"), &[low, high], &process);
        Self { dir, registry: DockerRegistry::new() }
    }

    /// The image at the registry, where somebody else has put it.
    fn published(&self) -> String {
        let image = format!("{}/team/app:1", self.registry.host());
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--insecure-policy", "--dest-tls-verify=false"]);
        skopeo.arg(format!("oci:{}", self.dir.join("image").display())).arg(format!("docker://{image}"));
        assert!(skopeo.stdout(Stdio::null()).status().unwrap().success());
        image
    }

    /// A command line as a user types it, with this program on the path.
    fn shell(&self, line: &str) -> Output {
        let bin = program("soci").parent().unwrap().to_owned();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(&self.dir).env("PATH", path).stdin(Stdio::null());
        command.env_remove("RUST_LOG").env("DOCKER_CONFIG", &self.dir);
        command.env("CONTAINERD_ADDRESS", self.dir.join("no-containerd.sock"));
        command.output().unwrap()
    }

    #[track_caller]
    fn succeed(&self, line: &str) -> String {
        let output = self.shell(line);
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// `soci optimize`, with a store and unpacked layers of its own.
    #[track_caller]
    fn optimize(&self, words: &str) -> Value {
        let line = format!("soci --root store optimize --state state --output out --json {words}");
        let printed = self.succeed(&line);
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
    }

    /// A cold start; gives its report.
    #[track_caller]
    fn start(&self, command: &str) -> Value {
        let command = command.strip_prefix("soci run ").unwrap();
        let report = self.succeed(&format!("soci run --json {command}"));
        serde_json::from_str(report.lines().last().unwrap()).unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn counter(report: &Value, name: &str) -> u64 {
    report["counters"][name].as_f64().unwrap_or_else(|| panic!("{name} in {report}")) as u64
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The start took what it needed from the pack, and little beside.
#[track_caller]
fn served_by_its_pack(report: &Value, outcome: &Value) {
    assert_eq!(counter(report, "soci_packs_total"), 1, "{report}");
    assert!(counter(report, "soci_pack_blocks_total") > 0, "{report}");
    assert_eq!(counter(report, "soci_demand_spans_total"), 0, "{report}");
    let (bytes, image) = (number(&report["bytes"]), number(&outcome["plans"][0]["image_size"]));
    let predicted = number(&outcome["predicted"]["optimized"]["bytes"]);
    assert!(bytes * 10 < image, "{bytes} of {image} bytes");
    // Manifests are not in what is predicted, and the pack's tail may come after the workload is ready.
    assert!(bytes < predicted + (64 << 10), "{bytes} bytes, {predicted} predicted");
}

#[test]
fn one_command_and_the_next_cold_start_uses_the_pack() {
    let desk = Desk::new("push");
    let image = desk.published();
    let outcome = desk.optimize(&format!("--until log:^READY --runs 2 --tail 100ms --push {image}"));
    let kinds: Vec<&str> =
        outcome["pushed"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["soci index", "fine index", "pack"]);
    assert_eq!(number(&outcome["verified"]["manifests"]), 3);
    assert!(outcome["to"].is_null() && outcome["measured"].is_null());
    assert_eq!(outcome["profile"], "out/app.profile");
    for file in ["app.1.trace", "app.2.trace", "app.profile"] {
        assert!(desk.dir.join("out").join(file).is_file(), "{file}");
    }
    // The command that it names is the next step, and works as it stands.
    let next = outcome["next"][0].as_str().unwrap();
    assert_eq!(next, format!("soci run --until 'log:^READY' {image}"));
    let report = desk.start(next);
    served_by_its_pack(&report, &outcome);
    assert!(number(&report["requests"]) <= number(&outcome["predicted"]["optimized"]["requests"]) + 4);
}

#[test]
fn a_new_image_is_measured_before_and_after() {
    let desk = Desk::new("to");
    let image = desk.published();
    let outcome = desk
        .optimize(&format!("--until log:^READY --runs 1 --tail 0 --name web --to fast --measure {image}"));
    let fast = format!("{}/team/app:fast", desk.registry.host());
    assert_eq!(outcome["to"], fast);
    let measured = &outcome["measured"];
    let (full, optimized) = (number(&measured["full"]["bytes"]), number(&measured["optimized"]["bytes"]));
    assert!(optimized * 10 < full, "{measured}");
    assert!(measured["full"]["ready_s"].as_f64() > Some(0.0) && measured["optimized"]["ready_s"].is_f64());
    let next = outcome["next"][0].as_str().unwrap();
    assert_eq!(next, format!("soci run --workload web --until 'log:^READY' {fast}"));
    served_by_its_pack(&desk.start(next), &outcome);
}

#[test]
fn what_was_recorded_is_kept_when_the_push_fails() {
    let desk = Desk::new("kept");
    let image = desk.published();
    let line = format!(
        "soci --root store optimize --state state --output out --until log:^READY --runs 1 --to 127.0.0.1:1/app:2 {image}"
    );
    let failed = desk.shell(&line);
    let said = text(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(said.contains("with the same command and --profile out/app.profile"), "{said}");
    assert!(said.contains("hint: nothing listens at that address"), "{said}");
    let listed = desk.succeed(&format!("soci --root store index list --json --remote {image}"));
    assert_eq!(listed.trim(), "[]", "nothing is announced");
    // The same command with the profile, and the right registry.
    let outcome = desk.optimize(&format!("--until log:^READY --push --profile out/app.profile {image}"));
    served_by_its_pack(&desk.start(outcome["next"][0].as_str().unwrap()), &outcome);

    // A workload that is never ready leaves its trace, and nothing is made of it.
    let failed = desk.shell(&format!(
        "soci --root store optimize --state state --output late --until log:NEVER --runs 1 --push {image} -- do say no"
    ));
    let said = text(&failed.stderr);
    assert_eq!(failed.status.code(), Some(4), "{said}");
    assert!(said.contains("nothing was made of it") && desk.dir.join("late/app.trace").is_file(), "{said}");
}

#[test]
fn an_image_on_disk_is_written_beside() {
    let desk = Desk::new("disk");
    let outcome = desk.optimize("--until log:^READY --runs 1 --tail 0 oci:image");
    assert_eq!(outcome["to"], "image-soci");
    let next = outcome["next"][0].as_str().unwrap();
    assert_eq!(next, "soci push --image oci:image-soci REGISTRY/NAME:TAG");
    let name = format!("{}/team/app:3", desk.registry.host());
    desk.succeed(&next.replace("soci ", "soci --root store ").replace("REGISTRY/NAME:TAG", &name));
    served_by_its_pack(&desk.start(&format!("soci run --until log:^READY {name}")), &outcome);
}
