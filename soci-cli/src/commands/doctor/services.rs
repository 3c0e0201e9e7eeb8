//! The services of a node: containerd, the snapshotter, its configuration and its disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use soci_core::containerd::snapshots::ListSnapshotsRequest;
use soci_core::containerd::{ConnectError, Containers, NAMESPACE_HEADER, reason, snapshots_client};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::containerd_config::{self, Node};
use super::{Args, Finding};
use crate::commands::run::snapshotter_program;
use crate::global::Global;

const CONTAINERD: &str = "containerd";
/// Where nodes have the snapshotter's configuration.
const CONFIGS: [&str; 2] = ["/etc/soci-snapshotter-grpc/config.toml", "/etc/soci-snapshotter/config.toml"];
/// Where nodes have the snapshotter's socket.
const SOCKETS: [&str; 2] =
    ["/run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock", "/run/soci-snapshotter/soci-snapshotter.sock"];
/// Free space below which a warning is due, in bytes.
const LITTLE: u64 = 2 << 30;
/// A service that does not answer for so long does not work.
const PATIENCE: Duration = Duration::from_secs(4);

/// All checks of the services.
pub(super) fn check(runtime: &Runtime, args: &Args, global: &Global) -> Vec<Finding> {
    let socket = global.socket();
    let config = named_or_found(args.config.as_ref(), CONFIGS);
    let daemon = named_or_found(args.snapshotter.as_ref(), SOCKETS);
    let (snapshotter, containerd) = runtime
        .block_on(async { tokio::join!(snapshotter(&daemon), containerd(&socket, global.namespace())) });
    let (containerd, version) = containerd;
    let node = Node {
        config: &args.containerd_config,
        snapshotter_config: &config,
        socket: &daemon,
        version: version.as_deref(),
    };
    let pulls = containerd_config::check(&node);
    [configuration(&config), snapshotter, containerd]
        .into_iter()
        .chain(pulls)
        .chain([disk(global.store_root())])
        .collect()
}

/// What the user named; else the first that is there, else the first.
fn named_or_found(named: Option<&PathBuf>, usual: [&str; 2]) -> PathBuf {
    let found = || usual.into_iter().find(|path| Path::new(path).exists()).unwrap_or(usual[0]).into();
    named.cloned().unwrap_or_else(found)
}

/// The daemon itself reads its configuration and says what is wrong with it.
fn configuration(path: &Path) -> Finding {
    const CHECK: &str = "config";
    if !path.exists() {
        return Finding::ok(CHECK, format!("no {}: the defaults", path.display()));
    }
    let Ok(program) = snapshotter_program(None) else {
        return Finding::failed(
            CHECK,
            "soci-snapshotter-grpc is neither beside soci nor in PATH",
            "install both programs of the same version",
        );
    };
    match Command::new(&program).arg("--config").arg(path).args(["config", "dump"]).output() {
        Ok(output) if output.status.success() => {
            let remarks = String::from_utf8_lossy(&output.stderr);
            match remarks.lines().next() {
                Some(remark) => Finding::warning(CHECK, remark, "mend the configuration"),
                None => Finding::ok(CHECK, format!("{} is valid", path.display())),
            }
        }
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            Finding::failed(CHECK, text.lines().next().unwrap_or_default(), "mend the configuration")
        }
        Err(error) => Finding::failed(CHECK, format!("{}: {error}", program.display()), "reinstall it"),
    }
}

async fn snapshotter(socket: &Path) -> Finding {
    const CHECK: &str = "snapshotter";
    let advice = "start it: systemctl start soci-snapshotter; its log says why when it does not";
    let failed = |text: String| Finding::warning(CHECK, text, advice);
    let mut client = match snapshots_client(socket).await {
        Ok(client) => client,
        Err(error) => return failed(error.to_string()),
    };
    let request = ListSnapshotsRequest { snapshotter: "soci".to_owned(), filters: Vec::new() };
    let count = async {
        let mut stream = client.list(namespaced(request, "default")).await?.into_inner();
        let mut count = 0;
        while let Some(page) = stream.message().await? {
            count += page.info.len();
        }
        Ok::<_, Status>(count)
    };
    match timeout(PATIENCE, count).await {
        Ok(Ok(count)) => Finding::ok(CHECK, format!("answers on {}, {count} snapshots", socket.display())),
        Ok(Err(status)) => failed(format!("{}: {}", socket.display(), reason(&status))),
        Err(_) => failed(silent(socket)),
    }
}

fn silent(socket: &Path) -> String {
    format!("{}: no answer within {} s", socket.display(), PATIENCE.as_secs())
}

/// containerd answers, and knows the snapshotter as its proxy plugin. With its version, if it says that.
async fn containerd(socket: &Path, namespace: &str) -> (Finding, Option<String>) {
    let version = match Containers::connect(socket).await {
        Ok(containers) => containers.version().await.ok(),
        Err(error) => return (unusable(&error), None),
    };
    (proxy_plugin(socket, namespace, version.as_deref().unwrap_or_default()).await, version)
}

fn unusable(error: &ConnectError) -> Finding {
    Finding::warning(
        CONTAINERD,
        error.to_string(),
        "soci run and registry commands work without it; else start it or give --address",
    )
}

async fn proxy_plugin(socket: &Path, namespace: &str, version: &str) -> Finding {
    const CHECK: &str = CONTAINERD;
    let mut client = match snapshots_client(socket).await {
        Ok(client) => client,
        Err(error) => return unusable(&error),
    };
    let request = ListSnapshotsRequest { snapshotter: "soci".to_owned(), filters: Vec::new() };
    let Ok(answer) = timeout(PATIENCE, client.list(namespaced(request, namespace))).await else {
        return Finding::failed(CHECK, silent(socket), "restart it, or give --address");
    };
    match answer {
        Ok(_) => Finding::ok(
            CHECK,
            format!("{version} answers on {} and knows the snapshotter soci", socket.display()),
        ),
        Err(status) if matches!(status.code(), Code::InvalidArgument | Code::NotFound) => Finding::failed(
            CHECK,
            format!("answers on {}, but: {}", socket.display(), status.message()),
            "add [proxy_plugins.soci] with type = \"snapshot\" and the snapshotter's socket to containerd's config.toml",
        ),
        Err(status) => Finding::failed(
            CHECK,
            format!("{}: {}", socket.display(), reason(&status)),
            "the snapshotter's socket in [proxy_plugins.soci] must be that of a running daemon",
        ),
    }
}

fn namespaced<T>(message: T, namespace: &str) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Ok(value) = namespace.parse() {
        request.metadata_mut().insert(NAMESPACE_HEADER, value);
    }
    request
}

fn disk(root: &Path) -> Finding {
    const CHECK: &str = "disk";
    let existing = root.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let (free, total) = match rustix::fs::statvfs(existing) {
        Ok(stat) => (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize),
        Err(errno) => {
            return Finding::failed(
                CHECK,
                format!("{}: {errno}", existing.display()),
                "choose another --root",
            );
        }
    };
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let text = format!("{:.1} of {:.1} GiB free at {}", gib(free), gib(total), existing.display());
    if free < LITTLE {
        return Finding::warning(
            CHECK,
            text,
            "make room, or set [cache] max_bytes in the snapshotter's configuration",
        );
    }
    Finding::ok(CHECK, text)
}
