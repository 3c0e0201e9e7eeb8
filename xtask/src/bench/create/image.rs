//! The images of `cargo xtask bench create`: four layers of this machine's own files, and one layer of a million entries.
//!
//! Owns their folders, which are made once and kept. Invariant: the same files give the same layers.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use soci_core::digest::{Digest, Hasher};
use soci_core::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, REF_NAME};
use soci_core::testing::{TarBuilder, TarEntry, TarFormat};

/// Layers of the first image.
pub(super) const LAYERS: usize = 4;
/// Entries of the second image.
pub(super) const ENTRIES: usize = 1_000_000;
/// Bytes of gzip of each of the layers.
const LAYER_BYTES: u64 = 100_000_000;
/// Larger files are left out, so that no layer is mostly one file.
const LARGEST_FILE: u64 = 32 << 20;

/// The blobs of an image's layers, lowest first.
pub(super) fn layers(layout: &Path) -> Result<Vec<PathBuf>> {
    let names = fs::read_to_string(layout.with_extension("layers"))?;
    Ok(names.lines().map(|name| layout.join("blobs/sha256").join(name)).collect())
}

/// Bytes of gzip of all layers.
pub(super) fn gzip_bytes(layout: &Path) -> Result<u64> {
    layers(layout)?.iter().map(|layer| Ok(fs::metadata(layer)?.len())).sum()
}

/// The image in this layout, under the name `bench`; its layers are made by `make` when it is not there yet.
pub(super) fn ensure(layout: &Path, make: fn(&Path) -> Result<Vec<PathBuf>>) -> Result<PathBuf> {
    let list = layout.with_extension("layers");
    if list.exists() {
        return Ok(layout.to_owned());
    }
    eprintln!("making {} once", layout.display());
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |bytes: &[u8]| -> Result<Digest> {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes)?;
        Ok(digest)
    };
    let (mut names, mut layers) = (Vec::new(), Vec::new());
    for layer in make(layout)? {
        let mut hasher = Hasher::new();
        hasher.update(&fs::read(&layer)?);
        let (digest, size) = (hasher.finish(), fs::metadata(&layer)?.len());
        fs::rename(&layer, blobs.join(digest.hex()))?;
        names.push(digest.hex());
        layers.push(json!({ "mediaType": OCI_LAYER_GZIP, "digest": digest, "size": size }));
    }
    let config =
        json!({ "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] } });
    let config = config.to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": OCI_CONFIG, "digest": put(config.as_bytes())?, "size": config.len() },
        "layers": layers,
    });
    let manifest = manifest.to_string();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{
            "mediaType": OCI_MANIFEST, "digest": put(manifest.as_bytes())?, "size": manifest.len(),
            "annotations": { REF_NAME: "bench" }, "platform": { "os": "linux", "architecture": "amd64" },
        }],
    });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    fs::write(list, names.join("\n"))?;
    Ok(layout.to_owned())
}

/// Files of /usr in the order of their names, dealt out to the layers until each is as large as it should be.
pub(super) fn four_layers(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open: Vec<PathBuf> = ["/usr/bin", "/usr/lib", "/usr/share"].map(PathBuf::from).into();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                open.push(entry.path());
            } else if meta.is_file() && meta.len() <= LARGEST_FILE {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    thread::scope(|scope| {
        let layer = |number: usize| {
            let files = &files;
            let path = dir.join(format!("{number}.partial"));
            move || one_of_four(&path, files.iter().skip(number).step_by(LAYERS)).map(|()| path)
        };
        let threads: Vec<_> = (0..LAYERS).map(|number| scope.spawn(layer(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no layer panics")).collect()
    })
}

fn one_of_four<'f>(path: &Path, files: impl Iterator<Item = &'f PathBuf>) -> Result<()> {
    let mut gzip = GzEncoder::new(File::create(path)?, Compression::new(6));
    for file in files {
        // A file may have gone, or be one that only its owner reads.
        let Ok(data) = fs::read(file) else { continue };
        let mut tar = TarBuilder::new(TarFormat::Gnu);
        let name = file.to_string_lossy();
        tar.add(&TarEntry::file(name.trim_start_matches('/'), data));
        gzip.write_all(&tar.unfinished())?;
        if gzip.get_ref().metadata()?.len() >= LAYER_BYTES {
            gzip.write_all(&[0; 1024])?;
            gzip.finish()?;
            return Ok(());
        }
    }
    bail!("this machine has too few files in /usr for layers of {LAYER_BYTES} bytes")
}

/// One layer of empty files with names of usual length.
pub(super) fn million_entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let layer = dir.join("many.partial");
    let mut gzip = GzEncoder::new(File::create(&layer)?, Compression::fast());
    for package in 0..ENTRIES / 100 {
        let mut tar = TarBuilder::new(TarFormat::Ustar);
        for number in 0..100 {
            let name = format!("usr/lib/node_modules/package-{package}/dist/esm/internal/module-{number}.js");
            tar.add(&TarEntry::file(name, []));
        }
        gzip.write_all(&tar.unfinished())?;
    }
    gzip.write_all(&[0; 1024])?;
    gzip.finish()?;
    Ok(vec![layer])
}
