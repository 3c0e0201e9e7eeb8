//! The Debian package on a node with systemd and containerd: installed, used, upgraded and purged.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use harness::image::{LayerSource, TarWriter, publish};
use harness::patience::eventually;
use harness::pods::Cri;
use harness::registry::TestRegistry;
use soci_core::digest::Digest;
use tokio::runtime::Runtime;

use crate::made::{FIRST, SECOND, deb};
use crate::node::{Node, SERVICE, SOCKET};

/// Files of the image that are each read for the first time after something has happened.
const ONCE: usize = 5;

/// An image with busybox and files with checksums, lazy on the node.
fn image(registry: &TestRegistry) -> String {
    let busybox = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let (mut below, mut above) = (TarWriter::default(), TarWriter::default());
    for directory in ["bin", "data", "dev", "proc", "sys", "etc"] {
        below.entry(&format!("{directory}/"), b'5', "", b"");
    }
    below.program("bin/busybox", &busybox);
    for number in 0..ONCE {
        let content: Vec<u8> =
            (0..300_000u32).flat_map(|at| (at.wrapping_mul(2_654_435_761) >> number).to_le_bytes()).collect();
        let sum = format!("{}  /data/{number}\n", Digest::of(&content).hex());
        above.file(&format!("data/{number}"), &content).file(&format!("sums-{number}"), sum.as_bytes());
    }
    let sources = [below.finish(), above.finish()].map(|tar| LayerSource::of_tar(&tar));
    publish(registry, "app", &sources, 256 << 10).reference
}

/// Reads a file that nobody has read, in the running container.
fn check(node: &Node, file: usize) {
    let script = format!(
        "timeout 60 ctr -n k8s.io tasks exec --exec-id check-{file} app /bin/busybox sha256sum -c /sums-{file}"
    );
    node.sh(&script);
}

fn metric(node: &Node, name: &str) -> u64 {
    let mut stream = UnixStream::connect(node.path("/run/metrics.sock")).expect("metrics are served");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}

#[test]
fn a_package_is_installed_used_upgraded_and_purged() {
    let node = Node::boot();
    node.put(&deb(FIRST), "/root/first.deb");
    node.put(&deb(SECOND), "/root/second.deb");

    // Installed: it runs, and says who it is.
    node.sh("dpkg --install /root/first.deb");
    node.wait_for_another(0);
    node.sh("systemctl is-enabled soci-snapshotter.socket soci-snapshotter.service");
    assert_eq!(node.sh(&format!("stat -c %a {SOCKET}")), "660\n");
    assert!(node.sh("soci-snapshotter-grpc --version").starts_with("soci-snapshotter-grpc 0."));
    let version = node.sh("soci --version");
    assert!(version.contains("commit") || version.contains("development build"), "{version}");

    // Used: containerd as the examples say, a lazy pull.
    let metrics = "metrics_network = \"unix\"\nmetrics_address = \"/run/metrics.sock\"\n[background_fetch]\ndisable = true\n";
    let file = "/etc/soci-snapshotter-grpc/config.toml";
    std::fs::write(node.path(file), metrics).unwrap();
    node.sh("cp /usr/share/doc/soci-snapshotter/examples/containerd/containerd-1.toml /etc/containerd/config.toml");
    node.sh("systemctl restart soci-snapshotter containerd");
    let said = node.sh("soci doctor || true");
    assert!(said.contains("knows the snapshotter soci"), "{said}");
    let registry = TestRegistry::start();
    let image = image(&registry);
    let (socket, logs) = (node.path("/run/containerd/containerd.sock"), node.path("/var/log"));
    let pull = async { Cri::connect(&socket, &logs).await.pull(&image).await };
    Runtime::new().unwrap().block_on(pull).unwrap_or_else(|error| panic!("{error}\n{}", node.journal()));
    assert_eq!(metric(&node, "soci_layers_total{way=\"lazy\"}"), 2, "{}", node.journal());
    node.sh(&format!("ctr -n k8s.io run --detach --snapshotter soci {image} app /bin/busybox sleep 100000"));
    check(&node, 0);

    // Restarted and upgraded: another process, the same holder, and the container goes on.
    let (holder, mut before) = (node.holder(), node.main_pid());
    assert!(holder.is_some());
    node.sh(&format!("systemctl restart {SERVICE}"));
    node.wait_for_another(before);
    check(&node, 1);
    before = node.main_pid();
    node.sh("dpkg --install --force-confold /root/second.deb");
    node.wait_for_another(before);
    check(&node, 2);
    assert_eq!(node.holder(), holder, "the holder has stayed");
    assert_eq!(
        std::fs::read_to_string(node.path(file)).unwrap(),
        metrics,
        "the administrator's file has stayed"
    );

    // The removal is refused while a container needs its files.
    let refused = node.run(&["dpkg", "--remove", "soci-snapshotter"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("containers would lose their files"), "{said}");
    node.wait_for_another(0);
    check(&node, 3);

    // Without containers and images everything goes.
    node.sh("ctr -n k8s.io tasks kill --signal KILL app");
    eventually("the container is gone", || {
        node.run(&["ctr", "-n", "k8s.io", "tasks", "rm", "app"]);
        node.run(&["ctr", "-n", "k8s.io", "containers", "rm", "app"]);
        node.sh("ctr -n k8s.io containers ls -q").is_empty()
    });
    node.sh("ctr -n k8s.io images ls -q | xargs ctr -n k8s.io images rm --sync");
    node.sh("systemctl stop containerd");
    node.sh("dpkg --purge soci-snapshotter");
    node.sh("rm -rf /etc/containerd/config.toml /var/lib/containerd");
    node.assert_nothing_left();
}

#[test]
fn a_package_in_a_chroot_is_installed_and_purged() {
    let node = Node::boot();
    node.put(&deb(FIRST), "/root/first.deb");
    // No systemd runs in there, and its / is not that of the mount namespace. Nothing is copied: the node's files are below it.
    node.sh(
        "mkdir /root/plain && mount -t tmpfs tmpfs /root/plain && cd /root/plain && mkdir above work all && \
         mount -t overlay -o lowerdir=/,upperdir=above,workdir=work plain all",
    );
    let inside = |script: &str| {
        node.sh(&format!(
            "unshare --mount sh -ec 'cd /root/plain/all; mount -t proc proc proc; mount --rbind /dev dev; \
             mount --rbind /sys sys; mount -t tmpfs tmpfs run; exec chroot . sh -ec \"{script}\"'"
        ))
    };
    inside("dpkg --install /root/first.deb");
    assert!(inside("soci-snapshotter-grpc config dump").contains("[prefetch]"));
    inside("dpkg --purge soci-snapshotter");
    let left = inside("find / -xdev -path /proc -prune -o -path /root -prune -o -iname *soci* -print");
    assert_eq!(left, "");
    assert_eq!(node.sh("pgrep --full --list-full '[s]oci' || true"), "");
}
