//! The chart's pod on a node: what its installer does to the node's files and to its systemd, through rollouts and removal. The pod is
//! the image's files in namespaces as kubelet makes them (the node's PID namespace; its root at /host, where mounts come and go
//! with the node's).

use std::process::Output;

use crate::made::{FIRST, arch, unpack_image};
use crate::node::{Node, SERVICE};

/// Where the files of the image are on the node.
const POD: &str = "/root/pod";

/// The installer in the pod, with these variables.
fn pod(node: &Node, variables: &str, word: &str) -> Output {
    let script = format!(
        "mount --rbind / {POD}/host && mount -t tmpfs tmpfs {POD}/tmp && mkdir -p {POD}/proc {POD}/dev && mount --rbind /dev {POD}/dev && mount -t proc proc {POD}/proc && \
         exec chroot {POD} /bin/busybox env -i PATH=/usr/bin:/bin {variables} /bin/sh /usr/share/soci/install.sh {word}"
    );
    node.run(&["unshare", "--mount", "--propagation", "slave", "bash", "-ec", &script])
}

#[track_caller]
fn pod_ok(node: &Node, variables: &str, word: &str) -> String {
    let output = pod(node, variables, word);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{word}: {}{}\n{}",
        text(&output.stdout),
        text(&output.stderr),
        node.journal()
    );
    text(&output.stdout)
}

fn with_image() -> Node {
    let node = Node::boot();
    std::fs::create_dir(node.path(POD)).unwrap();
    unpack_image(FIRST, arch(), &node.path(POD));
    node
}

/// Installs, rolls out another program, removes; both ways to start.
fn rollout(variables: &str, bin: &str) {
    let node = with_image();
    let config = format!("{POD}/etc/soci/config.toml");
    std::fs::write(node.path(&config), "[background_fetch]\ndisable = true\n").unwrap();
    let variables = format!("{variables} SOCI_CONFIG=/etc/soci/config.toml");

    assert!(!pod(&node, &variables, "ready").status.success(), "nothing is there");
    let said = pod_ok(&node, &variables, "install");
    assert!(said.contains(&format!("wrote {bin}/soci-snapshotter-grpc")), "{said}");
    node.wait_for_another(0);
    pod_ok(&node, &variables, "ready");
    let (first, holder) = (node.main_pid(), node.holder());
    assert!(holder.is_some());

    // The same again, as a pod that was evicted: nothing changes.
    assert_eq!(pod_ok(&node, &variables, "install"), "");
    assert_eq!(node.main_pid(), first);

    // A rollout: the program is another one, and the holder stays.
    node.sh(&format!("echo >>{POD}/usr/bin/soci-snapshotter-grpc"));
    assert!(pod_ok(&node, &variables, "install").contains("soci-snapshotter-grpc"));
    node.wait_for_another(first);
    assert_eq!(node.holder(), holder);

    // systemd starts it again when it dies, whichever way it was started.
    let second = node.main_pid();
    node.sh(&format!("kill -KILL {second}"));
    node.wait_for_another(second);
    assert_eq!(node.holder(), holder);

    assert!(!pod(&node, &variables, "gone").status.success());
    pod_ok(&node, &variables, "remove");
    pod_ok(&node, &variables, "gone");
    node.assert_nothing_left();
}

#[test]
fn a_rollout_replaces_the_program_under_a_unit() {
    rollout("", "/opt/soci/bin");
}

#[test]
fn a_rollout_replaces_the_program_without_unit_files() {
    rollout("SOCI_STARTER=transient SOCI_BIN_DIR=/local/soci/bin", "/local/soci/bin");
}

#[test]
fn containerd_is_configured_and_restarted_once() {
    let node = with_image();
    std::fs::write(node.path(&format!("{POD}/etc/soci/containerd.toml")), "version = 2\n").unwrap();
    let variables = "SOCI_CONTAINERD_CONFIG=/etc/soci/containerd.toml SOCI_CONTAINERD_PATH=/etc/containerd/conf.d/soci.toml \
        SOCI_CONTAINERD_UNIT=containerd";
    node.sh("systemctl start containerd");
    let pid = || node.sh("systemctl show --property=MainPID --value containerd");
    let before = pid();
    pod_ok(&node, variables, "install");
    let after = pid();
    assert_ne!(before, after);
    assert_eq!(node.sh("cat /etc/containerd/conf.d/soci.toml"), "version = 2\n");
    pod_ok(&node, variables, "install");
    assert_eq!(pid(), after);
    assert!(node.run(&["systemctl", "--quiet", "is-active", SERVICE]).status.success());
    let refused = pod(&node, "SOCI_STARTER=magic", "install");
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("unit or transient")
    );
}
