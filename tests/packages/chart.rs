//! The chart: rendered by Go's own templates for each file of values, and what the documents say. Needs Debian's golang-go and
//! golang-github-masterminds-sprig-dev.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::made::{FIRST, file, tar};

/// Where Debian puts the sources of Go packages.
const SOURCES: &str = "/usr/share/gocode";

/// The chart as it is shipped, and the program that renders it.
struct Chart {
    work: tempfile::TempDir,
    program: PathBuf,
}

impl Chart {
    fn new() -> Self {
        let work = tempfile::tempdir().unwrap();
        tar(&["--extract", "--gzip", "--file"], &file(FIRST, "soci-snapshotter-chart-", ".tgz"), work.path());
        let program = work.path().join("render");
        let output = Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/chart"))
            .envs([("GO111MODULE", "off"), ("GOPATH", SOURCES), ("GOFLAGS", "")])
            .env("GOCACHE", work.path().join("cache"))
            .output()
            .expect("golang-go is installed (`cargo xtask test` does it)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { work, program }
    }

    fn folder(&self) -> PathBuf {
        self.work.path().join("soci-snapshotter")
    }

    fn render(&self, values: &[PathBuf]) -> Result<Vec<Value>, String> {
        let output = Command::new(&self.program).arg(self.folder()).args(values).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    }
}

/// The value of a variable of the pod.
fn variable<'a>(documents: &'a [Value], name: &str) -> Option<&'a str> {
    let container = &daemon_set(documents)["spec"]["template"]["spec"]["containers"][0];
    let list = container["env"].as_array().unwrap();
    list.iter().find(|variable| variable["name"] == name).map(|variable| variable["value"].as_str().unwrap())
}

fn daemon_set(documents: &[Value]) -> &Value {
    documents.iter().find(|document| document["kind"] == "DaemonSet").unwrap()
}

fn containerd(documents: &[Value]) -> &str {
    let map = documents.iter().find(|document| document["kind"] == "ConfigMap").unwrap();
    map["data"]["containerd.toml"].as_str().unwrap()
}

#[test]
fn it_renders_for_all_values_and_says_what_each_node_needs() {
    let chart = Chart::new();
    let entries = fs::read_dir(chart.folder()).unwrap().map(|entry| entry.unwrap().path());
    let is_values = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("values-");
    let mut files: Vec<PathBuf> = entries.filter(is_values).collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    let [bottlerocket, eks, k3s] = [0, 1, 2].map(|at| chart.render(&files[at..=at]).unwrap());
    let plain = chart.render(&[]).unwrap();
    for documents in [&plain, &bottlerocket, &eks, &k3s] {
        let spec = &daemon_set(documents)["spec"];
        let pod = &spec["template"]["spec"];
        assert_eq!(spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]);
        assert_eq!((&pod["hostPID"], &pod["automountServiceAccountToken"]), (&true.into(), &false.into()));
        assert_eq!(pod["containers"][0]["args"], serde_json::json!(["keep"]));
        let volumes: Vec<_> =
            pod["volumes"].as_array().unwrap().iter().map(|volume| &volume["name"]).collect();
        let mounted = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        assert!(mounted.iter().all(|mount| volumes.contains(&&mount["name"])), "{pod:#}");
    }
    assert_eq!(variable(&plain, "SOCI_STARTER"), Some("unit"));
    assert_eq!(variable(&plain, "SOCI_CONTAINERD_PATH"), Some("/etc/containerd/conf.d/soci.toml"));
    assert!(
        containerd(&plain).contains("snapshotter = \"soci\"")
            && containerd(&plain).starts_with("version = 3")
    );
    assert_eq!(variable(&bottlerocket, "SOCI_STARTER"), Some("transient"));
    assert_eq!(variable(&bottlerocket, "SOCI_SOCKET"), Some("/run/soci-snapshotter/soci-snapshotter.sock"));
    assert_eq!(
        (variable(&bottlerocket, "SOCI_CONFIG"), variable(&eks, "SOCI_CONTAINERD_PATH")),
        (None, None)
    );
    assert!(containerd(&k3s).starts_with("{{ template \"base\" . }}\n"), "{}", containerd(&k3s));
    assert_eq!(variable(&k3s, "SOCI_CONTAINERD_UNIT"), Some("k3s"));
}

#[test]
fn values_are_checked_and_do_what_they_say() {
    let chart = Chart::new();
    let with = |text: &str| {
        let path = chart.work.path().join("more.yaml");
        fs::write(&path, text).unwrap();
        chart.render(&[path])
    };
    let removing = with("mode: remove").unwrap();
    let container = &daemon_set(&removing)["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"], serde_json::json!(["remove-and-wait"]));
    assert_eq!(container["readinessProbe"]["exec"]["command"][2], "gone");
    let old = with("containerd: {version: 1}").unwrap();
    assert!(
        containerd(&old).contains("[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n"),
        "{}",
        containerd(&old)
    );
    let some = with("containerd: {forAllPods: false}").unwrap();
    assert!(!containerd(&some).contains("snapshotter = "), "{}", containerd(&some));
    // A changed configuration is a new pod.
    let sum = |documents: &[Value]| {
        daemon_set(documents)["spec"]["template"]["metadata"]["annotations"].to_string()
    };
    assert_ne!(sum(&old), sum(&some));
    assert!(with("contianerd: {}").unwrap_err().contains("no value contianerd"));
}
