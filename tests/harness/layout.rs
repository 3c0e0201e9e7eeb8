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
    compile_with(source, to, &["-static"]);
}

/// Compiles a program of `programs/` to `to` with further flags.
///
/// # Panics
/// When there is no C compiler, or not the libraries for it.
pub fn compile_with(source: &str, to: &Path, flags: &[&str]) {
    fs::create_dir_all(to.parent().expect("a file has a directory")).expect("make the directory");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs").join(source);
    let status = Command::new("cc").args(["-O1", "-o"]).arg(to).arg(source).args(flags).status();
    assert!(status.expect("cc is installed").success(), "the workload program does not compile");
}

/// Copies the shared objects that a program or shared object needs, and its loader, to the same places below `root`.
///
/// # Panics
/// When there is no ldd(1), or a file cannot be copied.
pub fn copy_libraries(program: &Path, root: &Path) {
    let output = Command::new("ldd").arg(program).output().expect("ldd is installed");
    let text = String::from_utf8(output.stdout).expect("ldd writes text");
    for word in text.split_ascii_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(word.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a file has a directory")).expect("make the directory");
        fs::copy(word, to).expect("copy a shared object");
    }
}

/// A directory as GNU tar packs it, the same for the same content.
///
/// # Panics
/// When GNU tar fails.
pub fn tar(dir: &Path) -> Vec<u8> {
    let words =
        ["--create", "--sort=name", "--numeric-owner", "--format=pax", "--mtime=@1700000000", "--directory"];
    let output = Command::new("tar").args(words).arg(dir).arg(".").output().expect("GNU tar is installed");
    assert!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
