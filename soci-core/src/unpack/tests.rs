//! Layers with whiteouts in every order, paths named twice, and names that try to leave the directory.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

use rustix::fs::getxattr;

use super::*;
use crate::digest::Digest;

/// An archive of (name, type, link target, content) with our own user as the owner, so that any user can unpack it.
fn tar(entries: &[(&str, u8, &str, &str)]) -> Vec<u8> {
    let mut archive = Vec::new();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for (name, kind, link, content) in entries {
        let mut header = [0u8; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, if *kind == b'5' { b"0000751\0" } else { b"0000640\0" });
        put(108, format!("{uid:07o}\0").as_bytes());
        put(116, format!("{gid:07o}\0").as_bytes());
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000017\0        ");
        put(156, &[*kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content.as_bytes());
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn unpack_into(dest: &Path, entries: &[(&str, u8, &str, &str)]) -> Result<Unpacked, UnpackError> {
    let archive = tar(entries);
    let whiteouts = Whiteouts::Overlay { userxattr: true };
    let options = ApplyOptions { whiteouts, ..ApplyOptions::default() };
    unpack_layer(archive.as_slice(), LayerFormat::Tar, dest, options, Some(Digest::of(&archive)))
}

fn unpack(entries: &[(&str, u8, &str, &str)]) -> tempfile::TempDir {
    let dest = tempfile::tempdir().unwrap();
    unpack_into(dest.path(), entries).unwrap();
    dest
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_char_device() && meta.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    getxattr(path, "user.overlay.opaque", &mut value[..]).is_ok_and(|length| &value[..length] == b"y")
}

#[test]
fn a_whiteout_hides_what_lies_below_and_nothing_of_its_own_layer() {
    let dest = unpack(&[
        ("gone/.wh.a", b'0', "", ""),
        (".wh.before", b'0', "", ""),
        ("before", b'0', "", "mine"),
        ("after", b'0', "", "mine"),
        (".wh.after", b'0', "", ""),
        (".wh.dir-before", b'0', "", ""),
        ("dir-before/", b'5', "", ""),
        ("dir-after/x", b'0', "", "mine"),
        (".wh.dir-after", b'0', "", ""),
        (".wh.implied", b'0', "", ""),
        ("implied/x", b'0', "", "mine"),
        ("opaque/.wh..wh..opq", b'0', "", ""),
        (".wh..wh.plnk/1.2", b'0', "", "aufs"),
        (".wh..wh.orph", b'5', "", ""),
    ]);
    let at = |path: &str| dest.path().join(path);
    assert!(is_whiteout(&at("gone/a")));
    assert_eq!(fs::read_to_string(at("before")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(at("after")).unwrap(), "mine");
    for dir in ["dir-before", "dir-after", "implied", "opaque"] {
        assert!(is_opaque(&at(dir)), "{dir}");
    }
    assert_eq!(fs::read_to_string(at("implied/x")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(at("dir-after/x")).unwrap(), "mine");
    assert!(!is_opaque(&at("gone")) && !at(".wh..wh.orph").exists());
}

#[test]
fn a_later_entry_replaces_an_earlier_one_but_a_directory_keeps_its_content() {
    let dest = unpack(&[
        ("file", b'0', "", "first"),
        ("file", b'0', "", "second"),
        ("dir/x", b'0', "", "kept"),
        ("dir/", b'5', "", ""),
        ("tree/a/b", b'0', "", "lost"),
        ("tree", b'0', "", "now a file"),
        ("link", b'2', "file", ""),
        ("link", b'0', "", "now a file"),
        ("was-file", b'0', "", "lost"),
        ("was-file/", b'5', "", ""),
        ("one", b'0', "", "shared"),
        ("two", b'1', "./one", ""),
    ]);
    let read = |path: &str| fs::read_to_string(dest.path().join(path)).unwrap();
    assert_eq!(read("file"), "second");
    assert_eq!(read("dir/x"), "kept");
    assert_eq!((read("tree"), read("link")), ("now a file".into(), "now a file".into()));
    let meta = |path: &str| fs::symlink_metadata(dest.path().join(path)).unwrap();
    assert!(meta("was-file").is_dir());
    assert_eq!(meta("one").ino(), meta("two").ino());
    assert_eq!((meta("dir").mode() & 0o7777, meta("one").mode() & 0o7777), (0o751, 0o640));
    assert_eq!((meta("dir").mtime(), meta("one").mtime(), meta("link").mtime()), (15, 15, 15));
}

#[test]
fn no_name_leads_out_of_the_directory() {
    let outer = tempfile::tempdir().unwrap();
    let (inside, outside) = (outer.path().join("inside"), outer.path().join("outside"));
    fs::create_dir(&inside).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let absolute = outside.to_str().unwrap();
    assert!(absolute.len() < 100, "a ustar link name");
    unpack_into(
        &inside,
        &[
            ("../../outside/a", b'0', "", "a"),
            ("/absolute", b'0', "", "b"),
            ("up", b'2', "../outside", ""),
            ("up/c", b'0', "", "c"),
            ("abs", b'2', absolute, ""),
            ("abs/d", b'0', "", "d"),
            ("abs/.wh.secret", b'0', "", ""),
            ("final", b'2', "../outside/secret", ""),
            ("final", b'0', "", "replaced the link itself"),
        ],
    )
    .unwrap();
    let entries: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(entries, ["secret"]);
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "secret");
    assert_eq!(fs::read_to_string(inside.join("outside/a")).unwrap(), "a");
    assert_eq!(fs::read_to_string(inside.join("outside/c")).unwrap(), "c", "a link's target is made inside");

    // A hard link cannot take a file of the host in, whatever its target says.
    let fresh = tempfile::tempdir().unwrap();
    symlink(&outside, fresh.path().join("planted")).unwrap();
    let stolen = unpack_into(fresh.path(), &[("stolen", b'1', "planted/secret", "")]);
    assert!(matches!(stolen, Err(UnpackError::Entry { .. })), "{stolen:?}");
}

#[test]
fn what_cannot_be_right_is_an_error() {
    let refused = |entries: &[(&str, u8, &str, &str)]| {
        let dest = tempfile::tempdir().unwrap();
        unpack_into(dest.path(), entries).unwrap_err()
    };
    assert!(matches!(refused(&[(".wh.", b'0', "", "")]), UnpackError::Entry { .. }));
    assert!(matches!(refused(&[("a/.wh...", b'0', "", "")]), UnpackError::Entry { .. }));
    let endless = refused(&[("a", b'2', "b", ""), ("b", b'2', "a", ""), ("a/x", b'0', "", "")]);
    assert!(matches!(endless, UnpackError::Entry { .. }), "{endless}");
    assert!(matches!(refused(&[("f", b'0', "", "x"), ("f/x", b'0', "", "")]), UnpackError::Entry { .. }));
    assert!(matches!(refused(&[("f", b'1', "nothing", "")]), UnpackError::Entry { .. }));

    let archive = tar(&[("f", b'0', "", "x")]);
    let unpack = |bytes: &[u8], format, expected| {
        let dest = tempfile::tempdir().unwrap();
        unpack_layer(bytes, format, dest.path(), ApplyOptions::default(), Some(expected))
    };
    let other = unpack(&archive, LayerFormat::Tar, Digest::of(b"other"));
    assert!(matches!(other, Err(UnpackError::DiffId { .. })), "{other:?}");
    let cut = unpack(&archive[..512], LayerFormat::Tar, Digest::of(&archive));
    assert!(matches!(cut, Err(UnpackError::Tar(_))), "{cut:?}");
    let not_gzip = unpack(&archive, LayerFormat::Gzip, Digest::of(&archive));
    assert!(matches!(not_gzip, Err(UnpackError::Read(_))), "{not_gzip:?}");
}
