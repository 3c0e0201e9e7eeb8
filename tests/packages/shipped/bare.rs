//! The tarball in a root that has a busybox and nothing else: no C library, no loader, no certificates, and a `nsswitch.conf` that names
//! plugins which must not be loaded.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use harness::docker_registry::DockerRegistry;
use harness::layout;
use harness::machine::{mounts_mentioning, processes_mentioning};
use harness::patience::eventually;
use serde_json::json;

use crate::made::{FIRST, arch, file, tar};

/// A root with busybox and the tarball in /usr/local.
struct Bare(tempfile::TempDir);

impl Bare {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in
            ["bin", "dev", "etc", "lib/x86_64-linux-gnu", "proc", "run", "sys", "tmp", "usr/local", "var/lib"]
        {
            fs::create_dir_all(at(folder)).unwrap();
        }
        fs::copy("/bin/busybox", at("bin/busybox")).unwrap();
        for applet in ["sh", "cat", "ls", "mount", "mkdir", "sleep", "kill"] {
            symlink("busybox", at("bin").join(applet)).unwrap();
        }
        fs::write(at("etc/hosts"), "127.0.0.1 localhost registry.test\n").unwrap();
        fs::write(
            at("etc/nsswitch.conf"),
            "hosts: broken [!UNAVAIL=return] files dns\npasswd: broken files\n",
        )
        .unwrap();
        fs::write(at("lib/x86_64-linux-gnu/libnss_broken.so.2"), "no library").unwrap();
        let tarball = file(FIRST, "soci-", &format!("-linux-{}.tar.gz", arch()));
        tar(&["--extract", "--gzip", "--strip-components=1", "--file"], &tarball, &at("usr/local"));
        Self(root)
    }

    /// A program in the root, with namespaces of its own for mounts and processes.
    fn command(&self, script: &str) -> Command {
        let prepare = "mount --make-rprivate / && mount --bind \"$0\" \"$0\" && mount -t proc proc \"$0/proc\" && mount --rbind /sys \"$0/sys\" && mount --rbind /dev \"$0/dev\" && mount -t tmpfs tmpfs \"$0/run\" && \
            cd \"$0\" && mkdir -p mnt && pivot_root . mnt && /bin/busybox umount -l /mnt && exec /bin/sh -ec \"$1\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", prepare])
            .arg(self.0.path())
            .arg(script);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn ok(&self, script: &str) -> String {
        let output = self.command(script).output().unwrap();
        assert!(output.status.success(), "{script}: {}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// An image of a busybox and a file, pushed with its index.
fn pushed(bare: &Bare, registry: &DockerRegistry) -> String {
    let layer = tempfile::tempdir().unwrap();
    for folder in ["bin", "data", "proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir(layer.path().join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", layer.path().join("bin/busybox")).unwrap();
    symlink("busybox", layer.path().join("bin/sh")).unwrap();
    let noise: Vec<u8> =
        (0..2_000_000u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(layer.path().join("data/unread"), noise).unwrap();
    fs::write(layer.path().join("data/read"), "what was wanted\n").unwrap();
    let process = json!({ "Cmd": ["/bin/sh", "-c", "busybox cat /data/read; echo READY; exec busybox sleep 1000"], "Env": ["PATH=/bin"] });
    layout::write(&bare.0.path().join("tmp/image"), &[layer.path().to_owned()], &process);
    let reference = format!("registry.test:{}/app:1", registry.host().rsplit_once(':').unwrap().1);
    bare.ok(&format!(
        "soci create --root /tmp/store --min-layer-size 0 oci:/tmp/image && \
         soci push --root /tmp/store --plain-http --image oci:/tmp/image {reference}"
    ));
    reference
}

#[test]
fn programs_need_no_library_and_start_a_container_lazily() {
    let bare = Bare::new();
    let registry = DockerRegistry::new();
    assert!(bare.ok("soci --version").contains("commit"));
    let reference = pushed(&bare, &registry);
    let said = bare
        .command(&format!("soci run --root /var/lib/soci --plain-http --until log:READY --json {reference}"));
    let mut said = said;
    let output = said.output().unwrap();
    assert!(output.status.success(), "{}", words(&output));
    assert!(words(&output).contains("what was wanted"), "{}", words(&output));
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", words(&output)));
    assert_eq!(report["counters"]["soci_lazy_layers_resolved_total"], 1.0, "{report}");
    let root = bare.0.path().to_str().unwrap();
    assert_eq!((mounts_mentioning(root), processes_mentioning(root)), (Vec::new(), Vec::new()));
}

#[test]
fn the_daemon_starts_is_found_and_leaves_nothing() {
    let bare = Bare::new();
    let script = "soci-snapshotter-grpc & daemon=$!; \
        for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
          if soci doctor >/tmp/said 2>&1; then break; fi; if busybox grep -q 'answers on /run/soci' /tmp/said; then break; fi; sleep 1; done; \
        cat /tmp/said; kill $daemon; wait $daemon; soci-snapshotter-grpc unmount; echo ended; \
        busybox rm -r /var/lib/soci-snapshotter-grpc; busybox grep soci /proc/self/mounts || echo clean";
    let said = bare.ok(script);
    assert!(said.contains("answers on /run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock"), "{said}");
    assert!(said.contains("ended") && said.ends_with("clean\n"), "{said}");
    assert!(!Path::new(bare.0.path()).join("var/lib/soci-snapshotter-grpc").exists());
    let root = bare.0.path().to_str().unwrap().to_owned();
    eventually("processes have ended", || processes_mentioning(&root).is_empty());
    assert_eq!(mounts_mentioning(&root), Vec::<String>::new());
}
