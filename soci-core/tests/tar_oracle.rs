//! The tar parser against Python's tarfile, on archives by GNU tar and by our own writer, and on archives made by
//! hand where the expected answer is that of Go's `archive/tar`.
//!
//! Needs the programs `tar` and `python3`.

#[path = "tar_walk/sparse.rs"]
mod sparse;
mod tar_walk;

use std::process::Command;

use proptest::prelude::*;
use soci_core::tar::{EntryKind, Special, TarError};
use soci_core::testing::{TarBuilder, TarEntry, TarFormat};
use tar_walk::{check_against_python, parse, parse_in};

#[test]
fn archives_of_gnu_tar() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let deep = tree.join("d".repeat(60)).join("e".repeat(70)).join("f".repeat(80));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("g".repeat(120)), "deep").unwrap();
    std::fs::write(tree.join("empty"), "").unwrap();
    std::fs::write(tree.join("block"), [7; 512]).unwrap();
    std::fs::write(tree.join("large"), vec![3; 300_001]).unwrap();
    std::fs::write(tree.join("née 中"), "text").unwrap();
    std::fs::hard_link(tree.join("large"), tree.join("again")).unwrap();
    std::os::unix::fs::symlink("x".repeat(150), tree.join("link")).unwrap();
    let old = std::fs::File::open(tree.join("block")).unwrap();
    old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 250_000_000)).unwrap();
    for format in ["gnu", "posix", "oldgnu"] {
        let archive = dir.path().join(format);
        let status = Command::new("tar")
            .args(["--format", format, "--create", "--file"])
            .arg(&archive)
            .arg("--directory")
            .arg(&tree)
            .arg(".")
            .status()
            .unwrap();
        assert!(status.success());
        check_against_python(&archive);
        // Padding up to GNU tar's record size is not part of the archive.
        let bytes = std::fs::read(&archive).unwrap();
        let (_, end) = parse(&bytes).unwrap();
        assert!(end < bytes.len() as u64 && bytes[end as usize..].iter().all(|&byte| byte == 0));
    }
}

fn entry() -> impl Strategy<Value = TarEntry> {
    let name = prop_oneof![
        4 => "[a-z]{1,12}(/[a-z]{1,12}){0,3}",
        1 => "[a-zé]{60,90}/[a-z]{60,120}(/[a-z]{1,100})?",
    ];
    let kind = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..3000).prop_map(|data| TarEntry::file("", data)),
        1 => Just(TarEntry::dir("")),
        1 => "[a-z/]{1,150}".prop_map(|target| TarEntry::symlink("", target)),
        1 => "[a-z/]{1,150}".prop_map(|target| TarEntry::hard_link("", target)),
        1 => (0_u32..4000, 0_u32..1 << 20).prop_map(|(major, minor)| TarEntry::char_device("", major, minor)),
        1 => Just(TarEntry::fifo("")),
    ];
    (name, kind, 0_u32..0o10000, any::<(u32, u32)>(), -(1_i64 << 33)..1 << 33).prop_map(
        |(name, entry, mode, (uid, gid), secs)| {
            let slash = if entry.kind == EntryKind::Dir { "/" } else { "" };
            let entry = entry.mode(mode).owner(uid & 0x7fff_ffff, gid & 0x7fff_ffff).mtime(secs, 0);
            TarEntry { name: format!("{name}{slash}").into_bytes(), ..entry }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn written_archives(
        entries in proptest::collection::vec(entry(), 0..12),
        pax in any::<bool>(),
        chunk in 1_usize..2000,
    ) {
        let format = if pax { TarFormat::Pax } else { TarFormat::Gnu };
        let archive = TarBuilder::archive(format, &entries);
        let (seen, end) = parse_in(&archive, chunk).unwrap();
        prop_assert_eq!(end, archive.len() as u64);
        prop_assert_eq!(seen.entries.len(), entries.len());
        for ((seen, content), entry) in seen.entries.iter().zip(&seen.contents).zip(&entries) {
            prop_assert_eq!(&seen.name, &entry.name);
            prop_assert_eq!(&seen.link_name, &entry.link_name);
            prop_assert_eq!(content, &entry.data);
            prop_assert_eq!((seen.mode, seen.mtime), (i64::from(entry.mode), entry.mtime));
            prop_assert_eq!((seen.uid, seen.gid), (entry.owner.0.into(), entry.owner.1.into()));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &archive).unwrap();
        check_against_python(file.path());
    }

    #[test]
    fn damaged_archives_never_panic_nor_depend_on_chunking(
        entries in proptest::collection::vec(entry(), 1..6),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
        chunk in 1_usize..700,
    ) {
        let mut archive = TarBuilder::archive(TarFormat::Pax, &entries);
        for (at, byte) in damage {
            let at = at.index(archive.len());
            archive[at] = byte;
        }
        archive.truncate(cut.index(archive.len() + 1));
        let whole = parse(&archive).map(|(seen, end)| (seen.entries, seen.contents, end));
        let pieces = parse_in(&archive, chunk).map(|(seen, end)| (seen.entries, seen.contents, end));
        prop_assert_eq!(whole.map_err(|e| e.to_string()), pieces.map_err(|e| e.to_string()));
    }
}

/// A header block with a right checksum after `change`.
fn header(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut block = TarBuilder::archive(TarFormat::Ustar, &[TarEntry::file("name", *b"")])[..512].to_vec();
    change(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().copied().map(u32::from).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let records = records.iter().fold(TarEntry::file("x", *b""), |entry, (key, value)| entry.pax(key, value));
    let archive = TarBuilder::archive(TarFormat::Pax, &[records]);
    // Without the entry that the records were written for, and the end mark.
    archive[..archive.len() - 3 * 512].to_vec()
}

fn gnu_long(typeflag: u8, name: &str) -> Vec<u8> {
    let mut builder = TarBuilder::new(TarFormat::Gnu);
    builder.extension(typeflag, b"././@LongLink", format!("{name}\0").as_bytes());
    builder.unfinished()
}

#[test]
fn extensions_combine_as_in_go() {
    // A GNU long name wins over a PAX path, in either order; both hold for one entry only.
    let plain = header(|_| ());
    for archive in [
        [pax(&[("path", "by-pax"), ("k", "v")]), gnu_long(b'L', "by-gnu"), plain.clone(), plain.clone()],
        [gnu_long(b'L', "by-gnu"), pax(&[("path", "by-pax"), ("k", "v")]), plain.clone(), plain.clone()],
    ] {
        let (seen, _) = parse(&archive.concat()).unwrap();
        assert_eq!(seen.entries[0].name, b"by-gnu");
        assert_eq!(seen.entries[0].pax.get(b"k".as_slice()), Some(&b"v".to_vec()));
        assert_eq!(seen.entries[1].name, b"name");
        assert!(seen.entries[1].pax.is_empty());
    }
    // A second x header replaces the first; an empty value is kept but overrides nothing.
    let archive = [pax(&[("path", "one"), ("k", "v")]), pax(&[("path", "")]), plain].concat();
    let (seen, _) = parse(&archive).unwrap();
    assert_eq!(seen.entries[0].name, b"name");
    let keys: Vec<&[u8]> = seen.entries[0].pax.keys().map(Vec::as_slice).collect();
    assert_eq!(keys, [b"path"]);
}

#[test]
fn the_pax_size_rules_the_stream() {
    // The header says 0 bytes, the record says 600: the content is 600 bytes, not a hidden archive.
    let content = [vec![b'a'; 600], vec![0; 424]].concat();
    let archive = [pax(&[("size", "600")]), header(|_| ()), content, header(|_| ())].concat();
    let (seen, _) = parse(&archive).unwrap();
    assert_eq!((seen.entries.len(), seen.entries[0].size), (2, 600));
    assert_eq!(seen.contents[0], vec![b'a'; 600]);
    // A bad number in the header is an error even though a record replaces it.
    let archive = [pax(&[("size", "0")]), header(|block| block[124..135].fill(b'9'))].concat();
    assert!(matches!(parse(&archive), Err(TarError::Header { .. })));
    for value in ["-1", "9223372036854775807", "12x"] {
        let archive = [pax(&[("size", value)]), header(|_| ())].concat();
        assert!(parse(&archive).is_err(), "{value}");
    }
}

#[test]
fn sizes_of_links_move_nothing() {
    let link = header(|block| {
        block[156] = b'1';
        block[124..136].copy_from_slice(b"00000011610\0");
    });
    let (seen, _) = parse(&[link, header(|_| ())].concat()).unwrap();
    assert_eq!((seen.entries.len(), seen.entries[0].size), (2, 5000));
    assert_eq!(seen.entries[1].content_offset, 1024);
}

#[test]
fn old_formats() {
    let v7 = header(|block| {
        block[257..].fill(0);
        block[..9].copy_from_slice(b"old/dir/\0");
        block[156] = 0;
    });
    let star = header(|block| {
        block[345..350].copy_from_slice(b"start");
        block[476..500].fill(b'0');
        block[508..512].copy_from_slice(b"tar\0");
    });
    let old_go = header(|block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..358].copy_from_slice(b"a/long/prefix");
    });
    let gnu = header(|block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[345..356].copy_from_slice(b"14530440000");
    });
    let signed = {
        let mut block = header(|block| block[0] = 0xe9);
        let sum: i32 = block.iter().enumerate().fold(0, |sum, (at, &byte)| {
            sum + i32::from(if (148..156).contains(&at) { 32 } else { byte.cast_signed() })
        });
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    };
    let (seen, _) = parse(&[v7, star, old_go, gnu, signed].concat()).unwrap();
    let names: Vec<&[u8]> = seen.entries.iter().map(|entry| entry.name.as_slice()).collect();
    assert_eq!(names, [&b"old/dir/"[..], b"start/name", b"a/long/prefix/name", b"name", b"\xe9ame"]);
    assert_eq!((seen.entries[0].kind, seen.entries[0].uname.as_slice()), (EntryKind::Dir, &b""[..]));
}

/// What the sinks that take no such entry say.
fn refused(archive: &[u8]) -> String {
    let (seen, _) = parse(archive).unwrap();
    seen.special[0].refused(&seen.entries[0]).to_string()
}

#[test]
fn what_a_ztoc_cannot_say_comes_apart_and_is_named() {
    for typeflag in [b'7', b'V', b'M', b'D'] {
        let named = format!("unsupported input tar entry '{}' (name)", char::from(typeflag));
        assert_eq!(refused(&header(|block| block[156] = typeflag)), named);
    }
    // Go gives a size to types that it does not know; a file of type 7 is a file.
    for typeflag in [b'7', b'Q'] {
        let archive = [
            header(|block| {
                block[156] = typeflag;
                block[124..136].copy_from_slice(b"00000000005\0");
            }),
            [b"hello".to_vec(), vec![0; 507]].concat(),
            header(|_| ()),
        ];
        let (seen, _) = parse(&archive.concat()).unwrap();
        assert_eq!((seen.entries.len(), seen.contents[0].as_slice()), (2, &b"hello"[..]));
    }
    let mut builder = TarBuilder::new(TarFormat::Pax);
    builder.extension(b'x', b"big", &vec![b'0'; (1 << 20) + 1]);
    assert!(matches!(parse(&builder.finish()), Err(TarError::ExtensionTooLarge { size: 1_048_577, .. })));
}

#[test]
fn a_global_header_changes_nothing_and_uses_up_what_is_before_it() {
    let mut builder = TarBuilder::new(TarFormat::Pax);
    builder
        .extension(b'x', b"x", b"13 path=lost\n")
        .extension(b'g', b"pax_global_header", b"17 path=everyone\n")
        .add(&TarEntry::file("f", *b"x"));
    let (seen, _) = parse(&builder.finish()).unwrap();
    let names: Vec<&[u8]> = seen.entries.iter().map(|entry| entry.name.as_slice()).collect();
    assert_eq!(
        (names, seen.special.as_slice()),
        (vec![&b"pax_global_header"[..], b"f"], &[Special::Global][..])
    );
    let mut builder = TarBuilder::new(TarFormat::Pax);
    builder.extension(b'g', b"g", b"no records");
    assert!(matches!(parse(&builder.finish()), Err(TarError::Pax { .. })));
}

#[test]
fn ends_of_archives() {
    let file = TarBuilder::archive(TarFormat::Ustar, &[TarEntry::file("f", vec![1; 700])]);
    // Header, two blocks of content, two zero blocks.
    assert_eq!(file.len(), 5 * 512);
    for (length, end) in [(5 * 512, 2560), (4 * 512, 2048), (3 * 512, 1536), (512 + 700, 1212), (1300, 1300)]
    {
        assert_eq!(parse(&file[..length]).unwrap().1, end, "{length}");
    }
    for length in [100, 512 + 699, 3 * 512 + 1, 4 * 512 + 1] {
        assert!(matches!(parse(&file[..length]), Err(TarError::Truncated { .. })), "{length}");
    }
    assert_eq!(parse(&[]).unwrap().1, 0);
    assert_eq!(parse(&[file.clone(), vec![9; 3000]].concat()).unwrap().1, 2560);
    let gap = [vec![0; 512], file].concat();
    assert!(matches!(parse(&gap), Err(TarError::Header { offset: 512, .. })));
}
