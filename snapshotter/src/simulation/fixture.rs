//! The layers that are simulated: one for each way in which spans are had.
//!
//! Made once for the process, and never changed. What must always hold: the plain tar is what a reader must see.

use std::sync::LazyLock;

use bytes::Bytes;
use soci_core::digest::Digest;
use soci_core::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, gzip};
use soci_core::units::ByteRange;
use soci_core::ztoc::{BuildOptions, FineOptions, Ztoc, build_gzip, build_tar};

use super::chance::Chance;

/// A layer, its table and its windows.
#[derive(Debug)]
pub(super) struct Fixture {
    pub(super) plain: Vec<u8>,
    pub(super) blob: Bytes,
    pub(super) digest: Digest,
    pub(super) ztoc: Ztoc,
    /// With a fine table.
    pub(super) windows: Option<Bytes>,
}

impl Fixture {
    /// The bytes that a reader must see.
    pub(super) fn truth(&self, range: ByteRange) -> &[u8] {
        &self.plain[range.start as usize..range.end as usize]
    }
}

/// All of them. No two have a blob in common.
pub(super) static ALL: LazyLock<[Fixture; 4]> = LazyLock::new(|| {
    [
        ztoc(&tar(1, 220_000), &GzipShape::Level(6), 16 << 10),
        fine(&tar(2, 260_000), 20_000),
        plain(&tar(3, 90_000), 5000),
        ztoc(&tar(4, 150_000), &GzipShape::Members(40_000), 24_000),
    ]
});

/// Bytes of which deflate makes many short blocks, between which spans may begin, and which look back into the block before.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let (mut chance, mut bytes) = (Chance::new(seed), Vec::with_capacity(length + 24));
    while bytes.len() < length {
        bytes.extend((0..64).map(|_| chance.next() as u8 & 0x7f));
        if let Some(from) = bytes.len().checked_sub(20_000) {
            bytes.extend_from_within(from..from + 24);
        }
    }
    bytes.truncate(length);
    bytes
}

fn tar(seed: u64, length: usize) -> Vec<u8> {
    let big = TarEntry::file("big", content(seed, length));
    let small: Vec<_> = (0..12)
        .map(|at| TarEntry::file(format!("small{at}"), content(seed + at, 700 * (at as usize + 1))))
        .collect();
    TarBuilder::archive(TarFormat::Pax, small[..6].iter().chain([&big]).chain(&small[6..]))
}

fn options(span_size: u64) -> BuildOptions {
    BuildOptions { span_size, ..BuildOptions::default() }
}

fn made(plain: &[u8], blob: Vec<u8>, table: Ztoc, windows: Option<Vec<u8>>) -> Fixture {
    let (digest, windows) = (Digest::of(&blob), windows.map(Bytes::from));
    Fixture { plain: plain.to_vec(), blob: blob.into(), digest, ztoc: table, windows }
}

fn ztoc(tar: &[u8], shape: &GzipShape, span_size: u64) -> Fixture {
    let blob = gzip(shape, tar);
    let built = build_gzip(&blob[..], &options(span_size)).unwrap();
    made(tar, blob, Ztoc::open(built.ztoc.into()).unwrap(), None)
}

fn plain(tar: &[u8], span_size: u64) -> Fixture {
    let built = build_tar(tar, &options(span_size)).unwrap();
    made(tar, tar.to_vec(), Ztoc::open(built.ztoc.into()).unwrap(), None)
}

fn fine(tar: &[u8], span_size: u64) -> Fixture {
    let blob = gzip(&GzipShape::Level(6), tar);
    let fine = Some(FineOptions { span_size });
    let built = build_gzip(&blob[..], &BuildOptions { fine, ..BuildOptions::default() }).unwrap();
    let fine = built.fine.unwrap();
    made(tar, blob, Ztoc::open_table(fine.table.into()).unwrap(), Some(fine.windows))
}

#[test]
fn there_is_something_to_choose_in_each() {
    let counts: Vec<_> = ALL.iter().map(|layer| layer.ztoc.spans().len()).collect();
    assert!(counts.iter().all(|count| *count >= 5), "{counts:?} spans");
    let fine = ALL[1].ztoc.windows().expect("it has a fine table");
    assert!((1..ALL[1].ztoc.spans().len()).any(|span| fine.of(soci_core::units::SpanId(span)).is_some()));
}
