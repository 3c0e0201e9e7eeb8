//! What guests are given to work with: the product's programs, a registry, a program that reads, two images, the scripts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use soci_core::testing::{GzipShape, ImageBuilder, LayerFormat, TarBuilder, TarEntry, TarFormat, content};

use super::guest::Guest;
use super::kernel;
use crate::exec;
use crate::lab::{Lab, workspace};

/// Sizes of reads that do not end where a page or a window of readahead does.
pub(super) const ODD_READS: [u64; 3] = [40_000, 49_152, 200_000];
/// Sizes that do.
pub(super) const EVEN_READS: [u64; 5] = [4096, 16_384, 65_536, 131_072, 1 << 20];
/// Bytes of a file that is read whole: many windows of readahead, and not a whole number of pages.
const READ_BYTES: usize = (2 << 20) + 123;
/// Bytes of a mapped file: one of the largest folios.
const MAPPED_BYTES: usize = 2 << 20;
/// Of the one that is to have such folios: two.
const HUGE_BYTES: usize = 4 << 20;
/// The files of which each page, or some, are touched in a mapping; the last is copied up.
const MAPPED: [&str; 6] =
    ["map-plain", "map-sequential", "map-huge", "map-backward", "map-some", "map-copied"];

/// Programs of busybox that the images' scripts call.
const APPLETS: [&str; 16] = [
    "awk",
    "cat",
    "dd",
    "find",
    "grep",
    "head",
    "ls",
    "readlink",
    "sed",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "tar",
    "uniq",
];

/// Puts everything into a guest; `binaries` has the product, `long` is for the long scenarios.
pub(super) fn put(guest: &Guest, lab: &Lab, binaries: &Path, long: bool) -> Result<()> {
    for program in ["soci", "soci-snapshotter-grpc", "soci-snapshotter-grpc-successor", "chaos"] {
        guest.carry(&binaries.join(program))?;
    }
    guest.carry(&registry()?)?;
    let reader = lab.compile("reader", include_str!("../../vm/reader.c"), &["-static"])?;
    fs::copy(&reader, guest.path("usr/bin/reader"))?;
    let access = fs::read_to_string(workspace().join("tests/programs/access.c"))?;
    fs::copy(lab.compile("access", &access, &["-static"])?, guest.path("usr/bin/access"))?;
    for (name, text) in [
        ("checks.sh", include_str!("../../vm/checks.sh")),
        ("smoke.sh", include_str!("../../vm/smoke.sh")),
        ("reads.sh", include_str!("../../vm/reads.sh")),
        ("mapped.sh", include_str!("../../vm/mapped.sh")),
        ("starts.sh", include_str!("../../vm/starts.sh")),
        ("deaths.sh", include_str!("../../vm/deaths.sh")),
        ("log.sh", include_str!("../../vm/log.sh")),
    ] {
        guest.write(&format!("vm/{name}"), text)?;
    }
    let busybox = fs::read(kernel::busybox()?)?;
    image(guest, "app", &app(&busybox))?;
    let sizes = if long { [&ODD_READS[..], &EVEN_READS].concat() } else { ODD_READS.to_vec() };
    image(guest, "reads", &[reads(&busybox, &fs::read(reader)?, &sizes)])
}

fn registry() -> Result<PathBuf> {
    let found = exec::read(&mut exec::command(["sh", "-c", "command -v docker-registry"]));
    Ok(PathBuf::from(found.context("apt-get install docker-registry")?.trim()))
}

/// Writes an OCI layout below /img, and beside it the layers by their number, for an unpack by hand.
fn image(guest: &Guest, name: &str, layers: &[Vec<TarEntry>]) -> Result<()> {
    let mut builder = ImageBuilder::new().config("Env", json!(["PATH=/bin"]));
    for layer in layers {
        let tar = TarBuilder::archive(TarFormat::Pax, layer);
        builder = builder.layer(&tar, &LayerFormat::Gzip(GzipShape::Level(1)));
    }
    let (dir, beside) = (guest.path(&format!("img/{name}")), guest.path(&format!("img/{name}.layers")));
    fs::create_dir_all(&beside)?;
    let written = builder.write(&dir, "1")?;
    for (number, layer) in written.layers.iter().enumerate() {
        let blob = format!("../{name}/blobs/sha256/{}", layer.digest.hex());
        symlink(blob, beside.join(format!("{number}.tar.gz")))?;
    }
    Ok(())
}

/// Programs for scripts.
fn programs(busybox: &[u8]) -> Vec<TarEntry> {
    let mut entries = vec![TarEntry::dir("bin/"), TarEntry::file("bin/busybox", busybox).mode(0o755)];
    entries.extend(APPLETS.map(|applet| TarEntry::symlink(format!("bin/{applet}"), "busybox")));
    entries.push(TarEntry::dir("data/"));
    entries
}

/// An image that a container starts from: two layers with what overlays and lazy layers must show rightly.
fn app(busybox: &[u8]) -> [Vec<TarEntry>; 2] {
    let mut low = programs(busybox);
    low.extend([
        TarEntry::dir("etc/"),
        TarEntry::file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        TarEntry::file("etc/group", "root:x:0:\n"),
        TarEntry::file("data/old", "of the lower layer"),
        TarEntry::file("data/gone", "removed by the upper layer"),
        TarEntry::file("data/text", content(1, 600_000)).mode(0o640).owner(1000, 100),
        TarEntry::hard_link("data/hard", "data/text").mode(0o640).owner(1000, 100),
        TarEntry::symlink("data/soft", "many/7"),
        TarEntry::dir("data/many/").mode(0o750),
    ]);
    for number in 0..100 {
        low.push(TarEntry::file(format!("data/many/{number}"), content(number, 97 * number as usize)));
    }
    let high = vec![
        TarEntry::dir("data/"),
        TarEntry::file("data/old", "of the upper layer"),
        TarEntry::whiteout("data/gone"),
        TarEntry::file("data/second", content(2, 1_000_001)).mode(0o4755),
    ];
    [low, high]
}

/// An image whose files are each read in one way; `sizes` are those of plain reads.
fn reads(busybox: &[u8], reader: &[u8], sizes: &[u64]) -> Vec<TarEntry> {
    let plain: Vec<u8> = (0..HUGE_BYTES).map(|at| (at / 7 * 31 % 251) as u8).collect();
    let mut entries = programs(busybox);
    entries.push(TarEntry::file("bin/reader", reader).mode(0o755));
    let sizes = sizes.iter().map(|size| format!("dd-{size}"));
    for name in sizes.chain(["cat", "sendfile", "pread"].map(str::to_owned)) {
        entries.push(TarEntry::file(format!("data/{name}"), &plain[..READ_BYTES]));
    }
    for name in MAPPED {
        let length = if name == "map-huge" { HUGE_BYTES } else { MAPPED_BYTES };
        entries.push(TarEntry::file(format!("data/{name}"), &plain[..length]));
    }
    entries.push(TarEntry::dir("data/odd/"));
    for number in 0..24 {
        entries.push(TarEntry::file(format!("data/odd/{number}"), &plain[..=number * 13_337]));
    }
    entries
}
