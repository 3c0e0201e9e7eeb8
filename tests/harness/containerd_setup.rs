//! How a containerd is configured that has our daemon as its proxy snapshotter `soci`: the file for each line of containerd.
//!
//! Pure. The keys are those that docs/containerd.md tells people to write.

use std::fmt::Write as _;
use std::path::Path;

use crate::daemon::Daemon;

/// Plugins that no test needs and some machines cannot load.
const UNUSED: [&str; 5] = [
    "snapshotter.v1.btrfs",
    "snapshotter.v1.zfs",
    "snapshotter.v1.aufs",
    "snapshotter.v1.devmapper",
    "internal.v1.opt",
];

/// What a test changes.
#[derive(Debug, Clone, Copy)]
pub struct Setup<'a> {
    /// Whether clients say which layers they pull: annotations of CRI, or the export for the transfer service.
    pub labels: bool,
    /// CRI of containerd 2 pulls by itself, as that of 1.x.
    pub local_pull: bool,
    /// The snapshotter sees to the ids of user namespaces.
    pub remap_ids: bool,
    /// The image of pod sandboxes.
    pub sandbox: Option<&'a str>,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        Self { labels: true, local_pull: false, remap_ids: false, sandbox: None }
    }
}

/// The file of a containerd on `directory`; `two`: of version 2 or later. `daemon`: none for one without our snapshotter and CRI.
pub(crate) fn file(directory: &Path, two: bool, daemon: Option<&Daemon>, setup: &Setup<'_>) -> String {
    let mut disabled: Vec<String> = UNUSED.iter().map(|name| format!("io.containerd.{name}")).collect();
    if daemon.is_none() {
        let cri =
            if two { &["cri.v1.images", "cri.v1.runtime", "grpc.v1.cri"][..] } else { &["grpc.v1.cri"] };
        disabled.extend(cri.iter().map(|name| format!("io.containerd.{name}")));
    }
    let path = |name: &str| directory.join(name).display().to_string();
    let mut text = format!(
        "version = {version}\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = {disabled:?}\n\
         [grpc]\naddress = {socket:?}\n",
        version = if two { 3 } else { 2 },
        root = path("containerd-root"),
        state = path("containerd-state"),
        socket = path("containerd.sock"),
    );
    let Some(daemon) = daemon else { return text };
    let (socket, root) = (daemon.socket().display().to_string(), daemon.root().display().to_string());
    let capabilities = if setup.remap_ids { "capabilities = ['remap-ids', 'multi-remap-ids']\n" } else { "" };
    // A String takes everything.
    let _ = write!(
        text,
        "[proxy_plugins.soci]\ntype = 'snapshot'\naddress = {socket:?}\n{capabilities}\
         [proxy_plugins.soci.exports]\nroot = {root:?}\n{export}",
        export = if setup.labels && two { "enable_remote_snapshot_annotations = 'true'\n" } else { "" },
    );
    text.push_str(&if two { two_of(setup) } else { one_of(setup) });
    text
}

/// The plugins of containerd 1.x. A machine in a container may not lower scores of the memory killer.
fn one_of(setup: &Setup<'_>) -> String {
    let sandbox = setup.sandbox.map(|image| format!("sandbox_image = {image:?}\n")).unwrap_or_default();
    format!(
        "[plugins.'io.containerd.grpc.v1.cri']\nstream_server_port = '0'\nenable_selinux = false\n\
         restrict_oom_score_adj = true\n{sandbox}\
         [plugins.'io.containerd.grpc.v1.cri'.containerd]\nsnapshotter = 'soci'\n\
         disable_snapshot_annotations = {}\n",
        !setup.labels
    )
}

/// Those of 2.x.
fn two_of(setup: &Setup<'_>) -> String {
    let sandbox = setup
        .sandbox
        .map(|image| format!("[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = {image:?}\n"))
        .unwrap_or_default();
    let local = if setup.local_pull {
        format!("use_local_image_pull = true\ndisable_snapshot_annotations = {}\n", !setup.labels)
    } else {
        String::new()
    };
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let unpack = ["soci", "overlayfs"].map(|snapshotter| {
        format!(
            "[[plugins.'io.containerd.transfer.v1.local'.unpack_config]]\nplatform = 'linux/{arch}'\n\
             snapshotter = '{snapshotter}'\ndiffer = 'walking'\n"
        )
    });
    format!(
        "[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'soci'\n{local}{sandbox}\
         [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\nenable_selinux = false\n\
         [plugins.'io.containerd.grpc.v1.cri']\nstream_server_port = '0'\n{}",
        unpack.concat()
    )
}
