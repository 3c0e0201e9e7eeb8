//! The container image that puts soci on nodes (packaging/chart), made without a daemon: an OCI layout in a tar, with one manifest
//! for each architecture.
//!
//! It has the programs, the installer and a busybox that runs it, and no distribution. Push it with
//! `skopeo copy --all oci-archive:FILE docker://...`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use soci_core::digest::Digest;

use super::archive::{ARCHIVE, gzip, tar};
use super::build::PROGRAMS;
use super::files::{put, source};
use super::{Programs, Release};
use crate::exec;
use crate::images::blob_path;

/// What busybox does in the image. It finds other programs of its own by itself.
const APPLETS: [&str; 15] = [
    "cat", "chmod", "cmp", "cp", "dirname", "ls", "mkdir", "mv", "nsenter", "rm", "rmdir", "sed", "sh",
    "sleep", "stat",
];
const INSTALLER: &str = "usr/share/soci/install.sh";

/// Writes the image of all architectures.
pub(super) fn write(programs: &[Programs], release: &Release, scratch: &Path, out: &Path) -> Result<()> {
    let layout = scratch.join("layout");
    fs::create_dir_all(layout.join("blobs/sha256"))?;
    let mut manifests = Vec::new();
    for programs in programs {
        let root = scratch.join(programs.arch.name());
        lay_out(programs, &root)?;
        manifests.push(manifest(&layout, programs, release, &tar(&root, release)?)?);
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    });
    let mut index = blob(&layout, "application/vnd.oci.image.index.v1+json", index.to_string().as_bytes())?;
    index["annotations"] = json!({ "org.opencontainers.image.ref.name": release.version });
    let top = json!({ "schemaVersion": 2, "manifests": [index] });
    fs::write(layout.join("index.json"), top.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let archive = tar(&layout, release)?;
    Ok(fs::write(out.join(format!("soci-snapshotter-image-{}.oci.tar", release.version)), archive)?)
}

/// The files of the image.
fn lay_out(programs: &Programs, root: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    put(&root.join("bin/busybox"), 0o755, &read(&programs.busybox)?)?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    for program in PROGRAMS {
        put(&root.join("usr/bin").join(program), 0o755, &read(&programs.folder.join(program))?)?;
    }
    put(&root.join(INSTALLER), 0o755, &source("packaging/node/install.sh")?)?;
    for unit in ["soci-snapshotter.service", "soci-snapshotter.socket"] {
        put(&root.join("usr/share/soci").join(unit), 0o644, &source(&format!("packaging/systemd/{unit}"))?)?;
    }
    for folder in ["host", "tmp", "etc/soci"] {
        fs::create_dir_all(root.join(folder))?;
    }
    Ok(())
}

/// Writes layer, configuration and manifest of one architecture; gives the manifest's descriptor.
fn manifest(layout: &Path, programs: &Programs, release: &Release, plain: &[u8]) -> Result<Value> {
    let layer = blob(layout, "application/vnd.oci.image.layer.v1.tar+gzip", &gzip(plain, ARCHIVE)?)?;
    let created = date(release.time)?;
    let labels = json!({
        "org.opencontainers.image.title": "soci-snapshotter",
        "org.opencontainers.image.version": release.version,
        "org.opencontainers.image.licenses": "Apache-2.0",
    });
    let config = json!({
        "created": created,
        "architecture": programs.arch.name(),
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/bin:/bin"],
            "Entrypoint": ["/bin/sh", format!("/{INSTALLER}")],
            "Cmd": ["keep"],
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(plain).to_string()] },
        "history": [{ "created": created, "created_by": "cargo xtask dist" }],
    });
    let config = blob(layout, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer] });
    let mut manifest = blob(layout, media_type, manifest.to_string().as_bytes())?;
    manifest["platform"] = json!({ "architecture": programs.arch.name(), "os": "linux" });
    Ok(manifest)
}

/// Stores a blob and gives its descriptor.
fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Result<Value> {
    let digest = Digest::of(bytes).to_string();
    fs::write(blob_path(layout, &digest), bytes)?;
    Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
}

/// A time as RFC 3339 has it.
pub(super) fn date(seconds: u64) -> Result<String> {
    let at = format!("@{seconds}");
    let text = exec::read(&mut exec::command(["date", "--utc", "--date", &at, "+%Y-%m-%dT%H:%M:%SZ"]))?;
    Ok(text.trim().to_owned())
}
