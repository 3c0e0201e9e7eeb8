//! The services of a node: containerd, the snapshotter, its configuration and its disk.

use std::path::Path;
use std::process::Command;

use soci_core::containerd::snapshots::ListSnapshotsRequest;
use soci_core::containerd::{ConnectError, NAMESPACE_HEADER, snapshots_client};
use tokio::runtime::Runtime;
use tonic::Code;

use super::{Args, Finding};
use crate::cli::Global;
use crate::commands::run::snapshotter_program;

/// Free space below which a warning is due, in bytes.
const LITTLE: u64 = 2 << 30;

/// All checks of the services.
pub(super) fn check(runtime: &Runtime, args: &Args, global: &Global) -> Vec<Finding> {
    vec![
        configuration(&args.config),
        runtime.block_on(snapshotter(&args.snapshotter)),
        runtime.block_on(containerd(&global.socket(), &global.namespace)),
        disk(global.store_root()),
    ]
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
        Err(error) => return failed(unreachable(&error)),
    };
    let request = ListSnapshotsRequest { snapshotter: "soci".to_owned(), filters: Vec::new() };
    let mut count = 0;
    match client.list(namespaced(request, "default")).await {
        Ok(reply) => {
            let mut stream = reply.into_inner();
            while let Ok(Some(page)) = stream.message().await {
                count += page.info.len();
            }
            Finding::ok(CHECK, format!("answers on {}, {count} snapshots", socket.display()))
        }
        Err(status) => failed(format!("{}: {}", socket.display(), status.message())),
    }
}

/// containerd answers, and knows the snapshotter as its proxy plugin.
async fn containerd(socket: &Path, namespace: &str) -> Finding {
    const CHECK: &str = "containerd";
    let mut client = match snapshots_client(socket).await {
        Ok(client) => client,
        Err(error) => {
            return Finding::warning(
                CHECK,
                unreachable(&error),
                "soci run and registry commands work without it; else start it or give --address",
            );
        }
    };
    let request = ListSnapshotsRequest { snapshotter: "soci".to_owned(), filters: Vec::new() };
    match client.list(namespaced(request, namespace)).await {
        Ok(_) => {
            Finding::ok(CHECK, format!("answers on {} and knows the snapshotter soci", socket.display()))
        }
        Err(status) if matches!(status.code(), Code::InvalidArgument | Code::NotFound) => Finding::failed(
            CHECK,
            format!("answers on {}, but: {}", socket.display(), status.message()),
            "add [proxy_plugins.soci] with type = \"snapshot\" and the snapshotter's socket to containerd's config.toml",
        ),
        Err(status) => Finding::failed(
            CHECK,
            format!("{}: {}", socket.display(), status.message()),
            "the snapshotter's socket in [proxy_plugins.soci] must be that of a running daemon",
        ),
    }
}

/// The transport wraps the reason several times; the innermost says it.
fn unreachable(error: &ConnectError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("{error}: {cause}")
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
