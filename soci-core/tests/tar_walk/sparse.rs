//! Sparse files, by GNU tar in all five of its formats and by hand: the content is what GNU tar and Python read.
//!
//! Needs the programs `tar` and `python3`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use soci_core::digest::Digest;
use soci_core::tar::{Special, TarError};
use soci_core::testing::{TarBuilder, TarEntry, TarFormat};
use soci_core::unpack::{ApplyOptions, LayerFormat, unpack_layer};

use crate::tar_walk::{parse, parse_in};

const FORMATS: [&[&str]; 5] = [
    &["--format=gnu"],
    &["--format=oldgnu"],
    &["--format=posix", "--sparse-version=0.0"],
    &["--format=posix", "--sparse-version=0.1"],
    &["--format=posix", "--sparse-version=1.0"],
];

const PYTHON: &str = r"
import hashlib, sys, tarfile
t = tarfile.open(sys.argv[1], 'r:')
for m in t:
    print(m.name, m.size, 'sha256:' + hashlib.sha256(t.extractfile(m).read()).hexdigest())
";

/// An archive of everything in `dir`.
fn archive(dir: &Path, format: &[&str]) -> Vec<u8> {
    let tar = ["--sparse", "--owner=0", "--group=0", "--sort=name", "--create", "--file=-", "--directory"];
    let output =
        Command::new("tar").args(format).args(tar).arg(dir).args(["holes", "plain"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Parser, unpacker and Python agree, and with the file that was archived.
fn check(parts: &[(u64, Vec<u8>)], size: u64) {
    let work = tempfile::tempdir().unwrap();
    let dir = work.path().join("in");
    std::fs::create_dir(&dir).unwrap();
    let file = File::create(dir.join("holes")).unwrap();
    file.set_len(size).unwrap();
    for (at, bytes) in parts {
        file.write_all_at(bytes, *at).unwrap();
    }
    std::fs::write(dir.join("plain"), "behind").unwrap();
    let whole = std::fs::read(dir.join("holes")).unwrap();
    for (number, format) in FORMATS.into_iter().enumerate() {
        let tar = archive(&dir, format);
        for chunk in [1, 511, usize::MAX] {
            let (seen, _) = parse_in(&tar, chunk).unwrap();
            assert!(seen.special.is_empty() || seen.special == [Special::Sparse], "{format:?}");
            let names: Vec<_> = seen.entries.iter().map(|entry| entry.name.as_slice()).collect();
            assert_eq!(names, [&b"holes"[..], b"plain"], "{format:?}");
            assert_eq!(seen.entries[0].size, whole.len() as u64);
            assert!(seen.contents[0] == whole && seen.contents[1] == b"behind", "{format:?}");
        }
        let path = work.path().join(format!("{number}.tar"));
        std::fs::write(&path, &tar).unwrap();
        let output = Command::new("python3").args(["-c", PYTHON]).arg(&path).output().unwrap();
        let expected =
            format!("holes {} {}\nplain 6 {}\n", whole.len(), Digest::of(&whole), Digest::of(b"behind"));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{format:?}");
        if rustix::process::geteuid().is_root() {
            let out = work.path().join(format!("{number}"));
            std::fs::create_dir(&out).unwrap();
            unpack_layer(tar.as_slice(), LayerFormat::Tar, &out, ApplyOptions::default(), None).unwrap();
            assert!(std::fs::read(out.join("holes")).unwrap() == whole, "{format:?}");
        }
    }
}

#[test]
fn holes_at_every_place() {
    let data = || vec![7; 4096];
    check(&[(1 << 20, data())], 3 << 20);
    check(&[(0, data()), (2 << 20, data())], (2 << 20) + 4096);
    check(&[], 1 << 20);
    // More parts than an old header and one block behind it have room for.
    let many: Vec<_> = (0..60).map(|n| (n << 15, data())).collect();
    check(&many, 60 << 15);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_with_any_holes(
        parts in proptest::collection::vec((0_u64..200, 1_usize..9000), 0..40),
        size in 900_000_u64..1_000_000,
    ) {
        let parts: Vec<_> = parts.into_iter().map(|(at, length)| (at << 12, vec![at as u8 | 1; length])).collect();
        check(&parts, size);
    }
}

/// A file with a map of PAX 1.0 in front of `stored`.
fn lines(map: &str, stored: &[u8], size: &str) -> Vec<u8> {
    let mut content = map.as_bytes().to_vec();
    content.resize(content.len().next_multiple_of(512), 0);
    content.extend_from_slice(stored);
    let mut entry = TarEntry::file("GNUSparseFile.0/x", content);
    for (key, value) in [("major", "1"), ("minor", "0"), ("name", "x"), ("realsize", size)] {
        entry.pax.push((format!("GNU.sparse.{key}").into_bytes(), value.into()));
    }
    TarBuilder::archive(TarFormat::Pax, &[entry])
}

/// A file with a map of PAX 0.1.
fn record(map: &str, blocks: &str, stored: &[u8], size: &str) -> Vec<u8> {
    let mut entry = TarEntry::file("x", stored.to_vec());
    for (key, value) in [("map", map), ("numblocks", blocks), ("size", size)] {
        entry.pax.push((format!("GNU.sparse.{key}").into_bytes(), value.into()));
    }
    TarBuilder::archive(TarFormat::Pax, &[entry])
}

#[test]
fn maps_that_go_refuses_are_refused() {
    let good = [lines("2\n2\n3\n8\n1\n", b"abcd", "10"), record("2,3,8,1", "2", b"abcd", "10")];
    for archive in good {
        let (seen, _) = parse(&archive).unwrap();
        assert_eq!(seen.contents[0], b"\0\0abc\0\0\0d\0");
    }
    for (map, stored, size) in [
        ("1\n2\n3\n", &b"ab"[..], "10"),    // less is stored
        ("1\n2\n3\n", b"abcd", "10"),       // more is stored
        ("1\n8\n3\n", b"abc", "10"),        // behind the end
        ("2\n4\n2\n3\n2\n", b"abcd", "10"), // not in order
        ("2\n4\n2\n5\n2\n", b"abcd", "10"), // one in the other
        ("1\n-1\n3\n", b"abc", "10"),       // negative
        ("1\n9223372036854775807\n3\n", b"abc", "10"),
        ("-1\n", b"", "10"),
        ("9223372036854775807\n", b"", "10"),
        ("x\n", b"", "10"),
        ("2\n2\n3\n", b"abc", "10"), // ends early
        ("1\n2\n3\n", b"abc", "-10"),
        ("1\n2\n3\n", b"abc", "ten"),
    ] {
        let error = parse(&lines(map, stored, size)).expect_err(map);
        assert!(matches!(error, TarError::Header { .. } | TarError::Pax { .. }), "{map:?} {error}");
    }
    for (map, blocks) in [("2,3", "2"), ("2,3,8", "1"), ("2,3", "x"), ("2,x", "1"), ("2,3", "-1")] {
        assert!(parse(&record(map, blocks, b"abc", "10")).is_err(), "{map} {blocks}");
    }
    // A map longer than Go reads.
    let map = format!("300000\n{}", "1\n0\n".repeat(300_000));
    assert!(parse(&lines(&map, b"", "10")).unwrap_err().to_string().contains("sparse map does not end"));
    // A directory has no holes.
    let mut entry = TarEntry::dir("d/");
    entry.pax.push((b"GNU.sparse.map".to_vec(), b"0,0".to_vec()));
    assert!(parse(&TarBuilder::archive(TarFormat::Pax, &[entry])).is_err());
}

#[test]
fn a_hole_as_large_as_a_file_can_be_takes_no_room() {
    let archive = lines("1\n4611686018427387904\n1\n", b"x", "4611686018427387905");
    let mut holes = Holes::default();
    let mut parser = soci_core::tar::Parser::new();
    parser.push(&archive, &mut holes).unwrap();
    assert_eq!((holes.0, holes.1), (1 << 62, 1));
}

/// Bytes of holes and of data.
#[derive(Default)]
struct Holes(u64, usize);

impl soci_core::tar::Sink for Holes {
    type Error = TarError;

    fn entry(&mut self, _: soci_core::tar::Entry) -> Result<(), TarError> {
        Ok(())
    }

    fn special(&mut self, _: soci_core::tar::Entry, _: Special) -> Result<(), TarError> {
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.1 += bytes.len();
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<(), TarError> {
        self.0 += length;
        Ok(())
    }
}
