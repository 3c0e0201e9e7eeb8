//! Numbers of Linux. What a layer looks like is tested in soci-core's tree, and on real mounts in the privileged tests.

use bytes::Bytes;
use soci_core::tar::{EntryKind, Mtime};
use soci_core::ztoc::FileEntry;

use super::InodeNo;
use super::attr::{Attr, Kind};

fn entry(name: &str, kind: EntryKind) -> FileEntry {
    FileEntry {
        name: Bytes::copy_from_slice(name.as_bytes()),
        kind,
        header_offset: 0,
        content_offset: 512,
        size: 3,
        link_name: Bytes::new(),
        mode: 0o640,
        uid: 1,
        gid: 2,
        uname: Bytes::new(),
        gname: Bytes::new(),
        mtime: Mtime { secs: 5, nanos: 0 },
        dev_major: 1,
        dev_minor: 300,
        xattrs: Vec::new(),
    }
}

fn link(name: &str, kind: EntryKind, target: &str) -> FileEntry {
    FileEntry { link_name: Bytes::copy_from_slice(target.as_bytes()), ..entry(name, kind) }
}

#[test]
fn attributes() {
    let file = FileEntry { mode: 0o104_755, ..entry("f", EntryKind::Reg) };
    let attr = Attr::of_entry(InodeNo(2), 1, &file, &file);
    assert_eq!(
        (attr.kind, attr.perm, attr.size, attr.blocks(), attr.rdev()),
        (Kind::Regular, 0o4755, 3, 8, 0)
    );
    let of = |entry: &FileEntry| Attr::of_entry(InodeNo(2), 1, entry, entry);
    let device = of(&entry("c", EntryKind::Char));
    assert_eq!((device.size, device.rdev()), (0, 0x0010_012c), "1:300 in the kernel's form");
    let symlink = of(&link("s", EntryKind::Symlink, "target"));
    assert_eq!(symlink.size, 6);
}
