//! The tar walk against GNU tar and Python's tarfile on archives that no tool would write: formats mixed, numbers in
//! every notation, odd modes, records that override headers, links before their targets, and anything behind the end.
//!
//! Whatever we accept, both oracles read as the same names with the same content. What we refuse though they take it:
//!
//! | refused, or set apart | why |
//! |---|---|
//! | global PAX headers, volume labels and other types that zTOCs have no words for | a zTOC refuses them, Go's reader names their type |
//! | sparse files | their stored bytes are not their content |
//! | a sparse file in a header that is not GNU's, or with a map that does not fit | Go's reader refuses it |
//! | a lone zero block that is followed by more | Go's reader, hence upstream, refuses it; the oracles end there |
//!
//! What we read in another way, as Go's reader does, and hence leave out of the generator: an empty PAX value overrides
//! nothing (the oracles take it), and a GNU long name wins over a PAX path (GNU tar: the other way round; Python: the one
//! that comes first).
//!
//! Needs the programs `tar` and `python3`.

mod tar_walk;

use std::process::Command;

use proptest::prelude::*;
use soci_core::tar::EntryKind;
use soci_core::testing::{TarBuilder, TarEntry, TarFormat};
use tar_walk::{check_against_python, parse};

fn written(format: TarFormat, entry: &TarEntry) -> Vec<u8> {
    let mut builder = TarBuilder::new(format);
    builder.add(entry);
    builder.unfinished()
}

/// Changes the header of a part that is one entry without extensions, and makes its checksum right again.
fn changed(mut bytes: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut bytes[..512]);
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes[..512].iter().copied().map(u32::from).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

fn base_256(field: &mut [u8], value: i64) {
    let bytes = i128::from(value).to_be_bytes();
    let length = field.len();
    field.copy_from_slice(&bytes[bytes.len() - length..]);
    field[0] |= 0x80;
}

fn records(records: &[(String, String)]) -> Vec<u8> {
    let entry = records.iter().fold(TarEntry::file("x", *b""), |entry, (key, value)| entry.pax(key, value));
    let bytes = written(TarFormat::Pax, &entry);
    bytes[..bytes.len() - 512].to_vec()
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zé0-9._-]{1,20}(/[a-z]{1,12}){0,3}",
        1 => "\\./[a-z]{1,9}",
        1 => "/[a-z]{1,9}/\\.\\./[a-z]{1,9}",
        1 => "[a-z]{100}",
        1 => "[a-z]{1,80}/[a-z]{90,99}",
    ]
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(0), 1_usize..1600, Just(512), Just(1024)]
        .prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length))
}

/// Entries as they come, in any format.
fn usual() -> impl Strategy<Value = Vec<u8>> {
    let format = prop_oneof![Just(TarFormat::Pax), Just(TarFormat::Gnu)];
    let kind = prop_oneof![
        4 => content().prop_map(|data| TarEntry::file("", data)),
        1 => Just(TarEntry::dir("")),
        1 => name().prop_map(|target| TarEntry::symlink("", target)),
        1 => name().prop_map(|target| TarEntry::hard_link("", target)),
        1 => (0_u32..1 << 21, 0_u32..1 << 21).prop_map(|(major, minor)| TarEntry::char_device("", major, minor)),
        1 => Just(TarEntry::fifo("")),
    ];
    (format, name(), kind, any::<(u32, u32)>(), -(1_i64 << 33)..1 << 40).prop_map(
        |(format, name, entry, (uid, gid), secs)| {
            let slash = if entry.kind == EntryKind::Dir { "/" } else { "" };
            let entry = TarEntry { name: format!("{name}{slash}").into_bytes(), ..entry };
            written(format, &entry.owner(uid & 0x7fff_ffff, gid & 0x7fff_ffff).mtime(secs, 0))
        },
    )
}

/// One regular file whose header says things in an unusual way.
fn unusual() -> impl Strategy<Value = Vec<u8>> {
    (content(), "[a-z]{1,9}", 0_u8..9, any::<u32>(), "[a-z/]{1,100}").prop_map(
        |(data, name, what, number, prefix)| {
            let size = data.len() as i64;
            let entry = |name: &str| TarEntry::file(name, data.clone());
            let gnu = written(TarFormat::Gnu, &entry(&name));
            let ustar = written(TarFormat::Ustar, &entry(&name));
            match what {
                0 => changed(gnu, |block| base_256(&mut block[124..136], size)),
                1 => changed(gnu, |block| base_256(&mut block[136..148], -i64::from(number))),
                2 => changed(gnu, |block| base_256(&mut block[108..116], i64::from(number >> 1))),
                3 => changed(ustar, |block| block[100..108].copy_from_slice(b"100644 \0")),
                4 => changed(ustar, |block| block[100..108].copy_from_slice(b"  7755 \0")),
                5 => changed(ustar, |block| {
                    // V7, which marks a regular file by NUL and a directory by its name.
                    block[156] = 0;
                    block[257..].fill(0);
                }),
                6 => changed(ustar, |block| {
                    let prefix = prefix.trim_matches('/').as_bytes();
                    block[345..345 + prefix.len()].copy_from_slice(prefix);
                }),
                // The header says nothing of the content, the record all.
                7 if size > 0 => {
                    let file = changed(ustar, |block| block[124..136].copy_from_slice(b"00000000000\0"));
                    let record = [("size".to_owned(), size.to_string())];
                    [records(&record), file].concat()
                }
                7 => ustar,
                _ => {
                    let said = [
                        ("path".to_owned(), format!("renamed/{name}")),
                        ("mtime".to_owned(), format!("{}.5", number >> 3)),
                        ("uid".to_owned(), (number >> 1).to_string()),
                        ("comment".to_owned(), prefix),
                        ("SCHILY.xattr.user.a".to_owned(), "b\nc".to_owned()),
                    ];
                    [records(&said), ustar].concat()
                }
            }
        },
    )
}

/// What no zTOC takes.
fn refused() -> impl Strategy<Value = Vec<u8>> {
    (0_u8..5).prop_map(|what| {
        let mut builder = TarBuilder::new(TarFormat::Pax);
        match what {
            0 => builder.extension(b'g', b"global", b"13 comment=x\n"),
            1 => builder.extension(b'V', b"label", b""),
            2 => builder.raw(&[0; 512]).add(&TarEntry::file("behind-a-hole", *b"x")),
            3 => {
                let sparse =
                    [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")];
                let sparse = sparse.map(|(key, value)| (key.to_owned(), value.to_owned()));
                builder.raw(&records(&sparse)).raw(&written(TarFormat::Ustar, &TarEntry::file("s", [0; 512])))
            }
            _ => builder.extension(b'S', b"old-sparse", b""),
        };
        builder.unfinished()
    })
}

/// The end of the archive, and what is behind it.
fn ending() -> impl Strategy<Value = Vec<u8>> {
    let zeros = |count: usize| vec![0; count * 512];
    prop_oneof![
        Just(Vec::new()),
        Just(zeros(1)),
        Just(zeros(2)),
        Just(zeros(37)),
        proptest::collection::vec(any::<u8>(), 0..3000).prop_map(move |garbage| [zeros(2), garbage].concat()),
        usual().prop_map(move |part| [zeros(2), part, zeros(2)].concat()),
    ]
}

/// What GNU tar prints for an archive.
fn gnu(archive: &std::path::Path, words: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(words)
        .args(["--quoting-style=literal", "--absolute-names", "--file"])
        .arg(archive)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_we_accept_gnu_tar_and_python_read_likewise(
        parts in proptest::collection::vec(prop_oneof![3 => usual(), 3 => unusual()], 1..8),
        ending in ending(),
    ) {
        let archive = [parts.concat(), ending].concat();
        let (seen, _) = parse(&archive).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &archive).unwrap();
        check_against_python(file.path());
        let names: Vec<u8> =
            seen.entries.iter().flat_map(|entry| [entry.name.as_slice(), b"\n"].concat()).collect();
        let listed = gnu(file.path(), &["--list"]);
        prop_assert_eq!(
            String::from_utf8_lossy(&listed),
            String::from_utf8_lossy(&names)
        );
        let contents: Vec<u8> = seen.contents.concat();
        prop_assert!(gnu(file.path(), &["--extract", "--to-stdout"]) == contents, "contents differ");
    }

    #[test]
    fn what_a_ztoc_has_no_words_for_is_seen_wherever_it_stands(
        before in proptest::collection::vec(prop_oneof![usual(), unusual()], 0..3),
        refused in refused(),
        after in proptest::collection::vec(usual(), 0..2),
    ) {
        let archive = [before.concat(), refused, after.concat(), vec![0; 1024]].concat();
        prop_assert!(parse(&archive).map_or(true, |(seen, _)| !seen.special.is_empty()));
    }
}
