//! The rules of the tree, one by one. The comparison with GNU tar and overlayfs on real mounts is in the privileged tests.

use bytes::Bytes;
use proptest::prelude::*;
use soci_core::tar::{EntryKind, Mtime};
use soci_core::ztoc::FileEntry;

use super::InodeNo;
use super::attr::{Attr, Kind};
use super::tree::{Origin, Tree};

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

/// All names of the tree with what they are: `d` directory, `-` file, `w` whiteout, then `+` when opaque, links, entry.
fn shown(files: &[FileEntry]) -> Vec<String> {
    let tree = Tree::build(files);
    let mut lines = Vec::new();
    let mut open = vec![(String::new(), Tree::ROOT)];
    while let Some((path, ino)) = open.pop() {
        let inode = tree.inode(ino).unwrap();
        let kind = match inode.origin {
            Origin::Implied => "d implied".to_owned(),
            Origin::Whiteout(_) => "w".to_owned(),
            Origin::Entry(at) if files[at as usize].kind == EntryKind::Dir => format!("d {at}"),
            Origin::Entry(at) => format!("- {at}"),
        };
        lines.push(format!("{path}/ {kind} n{}{}", inode.nlink, if inode.opaque { " +" } else { "" }));
        for (name, child) in tree.list(files, inode, 0) {
            let name = String::from_utf8_lossy(name);
            assert_eq!(tree.child(files, inode, name.as_bytes()), Some(child));
            open.push((format!("{path}/{name}"), child));
        }
    }
    lines.sort();
    lines
}

use EntryKind::{Dir, HardLink, Reg, Symlink};

#[test]
fn names_are_cleaned_and_parents_implied() {
    let files = [entry("./a//b/./c", Reg), entry("/abs", Reg), entry("../../up", Reg), entry("x/../y/", Dir)];
    assert_eq!(
        shown(&files),
        [
            "/ d implied n4",
            "/a/ d implied n3",
            "/a/b/ d implied n2",
            "/a/b/c/ - 0 n1",
            "/abs/ - 1 n1",
            "/up/ - 2 n1",
            "/y/ d 3 n2"
        ]
    );
}

#[test]
fn root_entry_sets_the_root() {
    assert_eq!(shown(&[entry("./", Dir)]), ["/ d 0 n2"]);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let files = [entry("d/", Dir), entry("d/kept", Reg), entry("f", Reg), entry("f", Reg), entry("d/", Dir)];
    assert_eq!(shown(&files), ["/ d implied n3", "/d/ d 4 n2", "/d/kept/ - 1 n1", "/f/ - 3 n1"]);

    let files = [entry("d/lost", Reg), entry("d", Reg)];
    assert_eq!(
        shown(&files),
        ["/ d implied n2", "/d/ - 1 n1"],
        "a file in place of a directory takes all below"
    );

    let files = [entry("d", Reg), entry("d/", Dir), entry("d/new", Reg)];
    assert_eq!(shown(&files), ["/ d implied n3", "/d/ d 1 n2", "/d/new/ - 2 n1"]);
}

#[test]
fn hard_links_share_an_inode() {
    let files = [
        entry("a", Reg),
        link("b", HardLink, "./a"),
        link("c", HardLink, "/b"),
        link("lost", HardLink, "none"),
    ];
    assert_eq!(shown(&files), ["/ d implied n2", "/a/ - 0 n3", "/b/ - 0 n3", "/c/ - 0 n3"]);
    assert_eq!(Tree::build(&files).skipped(), 1);

    let files = [entry("a", Reg), link("b", HardLink, "a"), entry("a", Reg)];
    assert_eq!(
        shown(&files),
        ["/ d implied n2", "/a/ - 2 n1", "/b/ - 0 n1"],
        "the old inode keeps its other name"
    );

    let files = [entry("d/", Dir), link("e", HardLink, "d")];
    assert_eq!(Tree::build(&files).skipped(), 1, "a directory has one name");
}

#[test]
fn parents_may_be_symbolic_links() {
    let files = [entry("real/", Dir), link("alias", Symlink, "real"), entry("alias/x", Reg)];
    assert_eq!(shown(&files), ["/ d implied n3", "/alias/ - 1 n1", "/real/ d 0 n2", "/real/x/ - 2 n1"]);

    let files = [link("a", Symlink, "b"), link("b", Symlink, "a"), entry("a/x", Reg), entry("a/y", Reg)];
    assert_eq!(Tree::build(&files).skipped(), 2, "a loop ends");

    let files = [entry("f", Reg), entry("f/x", Reg)];
    assert_eq!(Tree::build(&files).skipped(), 1, "nothing is below a file");
}

#[test]
fn whiteouts() {
    let files = [
        entry("d/.wh.gone", Reg),
        entry("d/.wh..wh..opq", Reg),
        entry(".wh..wh.plnk", Reg),
        entry(".wh.back", Reg),
        entry("back", Reg),
        entry("first", Reg),
        entry(".wh.first", Reg),
        entry(".wh.made", Reg),
        entry("made/x", Reg),
    ];
    assert_eq!(
        shown(&files),
        [
            "/ d implied n4",
            "/back/ - 4 n1",
            "/d/ d implied n2 +",
            "/d/gone/ w n1",
            "/first/ - 5 n1",
            "/made/ d implied n2",
            "/made/x/ - 8 n1"
        ]
    );
}

#[test]
fn hostile_names_are_left_out_or_kept_cheap() {
    let long = "x".repeat(256);
    let deep = "d/".repeat(5000);
    let files = [entry(&long, Reg), entry(&deep, Dir), entry("ok", Reg)];
    let tree = Tree::build(&files);
    assert_eq!(tree.skipped(), 2);
    assert_eq!(tree.len(), 2);

    let many: Vec<_> = (0..80).map(|at| entry(&format!("{at}/").repeat(4096), Dir)).collect();
    let tree = Tree::build(&many);
    assert!(tree.skipped() > 0 && tree.len() <= (1 << 18) + 81);
}

#[test]
fn large_layers_stay_small() {
    let files: Vec<_> = (0..100_000).map(|at| entry(&format!("usr/{}/{at}", at % 500), Reg)).collect();
    let tree = Tree::build(&files);
    assert_eq!((tree.len(), tree.skipped()), (100_502, 0));
    assert!(size_of::<super::tree::Inode>() <= 32, "an inode is what a layer of many files costs");
}

#[test]
fn attributes() {
    let file = FileEntry { mode: 0o104_755, ..entry("f", Reg) };
    let attr = Attr::of_entry(InodeNo(2), 1, &file);
    assert_eq!(
        (attr.kind, attr.perm, attr.size, attr.blocks(), attr.rdev()),
        (Kind::Regular, 0o4755, 3, 8, 0)
    );
    let device = Attr::of_entry(InodeNo(2), 1, &entry("c", EntryKind::Char));
    assert_eq!((device.size, device.rdev()), (0, 0x0010_012c), "1:300 in the kernel's form");
    let symlink = Attr::of_entry(InodeNo(2), 1, &link("s", Symlink, "target"));
    assert_eq!(symlink.size, 6);
}

/// A name or a target, of few parts so that they meet.
fn written() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "c", ".wh.a", ".wh..wh..opq", ".", "..", ""]);
    let parts = prop::collection::vec(part, 1..5);
    (parts, any::<bool>()).prop_map(|(parts, slash)| parts.join("/") + if slash { "/" } else { "" })
}

proptest! {
    /// Where names lead is remembered by how they begin. Here each begins in its own way, so that nothing can be remembered.
    #[test]
    fn names_lead_to_the_same_place_however_they_are_written(
        entries in prop::collection::vec(
            (written(), prop::sample::select(vec![Reg, Dir, Dir, HardLink, Symlink]), written()),
            0..24,
        ),
    ) {
        let files = |spell: &dyn Fn(usize, &str) -> String| -> Vec<FileEntry> {
            let spelled = entries.iter().enumerate();
            spelled.map(|(at, (name, kind, target))| link(&spell(at, name), *kind, target)).collect()
        };
        let usual = files(&|_, name| name.to_owned());
        let odd = files(&|at, name| "./".repeat(at + 1) + name);
        prop_assert_eq!(shown(&usual), shown(&odd));
        prop_assert_eq!(Tree::build(&usual).skipped(), Tree::build(&odd).skipped());
    }
}
