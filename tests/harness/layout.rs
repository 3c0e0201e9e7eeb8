//! Images on disk: OCI layouts made of directories that GNU tar packs, and the workload program `do` for them.
//!
//! Owns nothing after [`write`].

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use soci_core::digest::Digest;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Writes a layout at `dir`: one layer for each directory, lowest first, and `process` as the image's `config` object.
///
/// # Panics
/// When GNU tar or the file system fails.
pub fn write(dir: &Path, layers: &[PathBuf], process: &Value) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("make the layout");
    let put = |bytes: &[u8], media_type: &str| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("write a blob");
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    };
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in layers {
        let plain = tar(layer);
        diff_ids.push(Digest::of(&plain).to_string());
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&plain).expect("writing to memory");
        descriptors.push(put(&gzip.finish().expect("writing to memory"), LAYER));
    }
    let platform = soci_core::image::Platform::host();
    let (os, architecture) = (&platform.os, &platform.architecture);
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    let config = json!({"os": os, "architecture": architecture, "config": process, "rootfs": rootfs});
    let config = put(config.to_string().as_bytes(), CONFIG);
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors});
    let manifest = put(manifest.to_string().as_bytes(), MANIFEST);
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(dir.join("index.json"), index.to_string()).expect("write the index");
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("write the layout file");
}

/// Compiles the workload program to `to`, which becomes an executable without libraries.
///
/// # Panics
/// When there is no C compiler, or no static C library for it.
pub fn compile_workload(to: &Path) {
    compile("do.c", to);
}

/// Compiles a program of `programs/` to `to`, which becomes an executable without libraries.
///
/// # Panics
/// When there is no C compiler, or no static C library for it.
pub fn compile(source: &str, to: &Path) {
    fs::create_dir_all(to.parent().expect("a file has a directory")).expect("make the directory");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(source);
    let status = Command::new("cc").args(["-static", "-O1", "-o"]).arg(to).arg(source).status();
    assert!(status.expect("cc is installed").success(), "the workload program does not compile");
}

fn tar(dir: &Path) -> Vec<u8> {
    let words =
        ["--create", "--sort=name", "--numeric-owner", "--format=pax", "--mtime=@1700000000", "--directory"];
    let output = Command::new("tar").args(words).arg(dir).arg(".").output().expect("GNU tar is installed");
    assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
