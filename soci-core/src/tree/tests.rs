//! The rules of the tree, one by one. The comparison with containerd and overlayfs on real mounts is in the privileged tests.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::tar::Mtime;
use crate::ztoc::FileEntry;

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

fn build(files: &[FileEntry]) -> LayerTree {
    LayerTree::build(files, files.len())
}

/// Why entries cannot be shown, by their numbers.
fn refused(files: &[FileEntry]) -> Vec<(u32, Reason)> {
    build(files).refused().iter().map(|refusal| (refusal.entry, refusal.reason)).collect()
}

/// All names of the tree with what they are: `d` directory, `-` file, `w` whiteout, then `+` when opaque, links, entry.
fn shown(files: &[FileEntry]) -> Vec<String> {
    let tree = build(files);
    let mut lines = Vec::new();
    let mut open = vec![(String::new(), ROOT)];
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
fn the_roots_own_entry_says_nothing() {
    assert_eq!(shown(&[entry("./", Dir), entry("..", Symlink)]), ["/ d implied n2"]);
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
    assert_eq!(refused(&files), [(3, Reason::LinkToNothing)]);

    let files = [entry("a", Reg), link("b", HardLink, "a"), entry("a", Reg)];
    assert_eq!(
        shown(&files),
        ["/ d implied n2", "/a/ - 2 n1", "/b/ - 0 n1"],
        "the old inode keeps its other name"
    );

    let files = [entry("d/", Dir), link("e", HardLink, "d")];
    assert_eq!(refused(&files), [(1, Reason::LinkToDirectory)], "a directory has one name");

    // What has the link's name goes first.
    let files = [entry("d/f", Reg), link("d", HardLink, "d/f"), link("d/f", HardLink, "d/f")];
    assert_eq!(refused(&files), [(1, Reason::LinkToNothing), (2, Reason::LinkToNothing)]);
    let files = [entry("a", Reg), link("b", HardLink, "a"), link("b", HardLink, "a")];
    assert_eq!(shown(&files), ["/ d implied n2", "/a/ - 0 n2", "/b/ - 0 n2"]);
    let files = [entry("d/f", Reg), link("l", Symlink, "d"), link("x", HardLink, "l/f")];
    assert_eq!(shown(&files)[2..], ["/d/f/ - 0 n2", "/l/ - 1 n1", "/x/ - 0 n2"], "through a link");
}

#[test]
fn parents_may_be_symbolic_links() {
    let files = [entry("real/", Dir), link("alias", Symlink, "real"), entry("alias/x", Reg)];
    assert_eq!(shown(&files), ["/ d implied n3", "/alias/ - 1 n1", "/real/ d 0 n2", "/real/x/ - 2 n1"]);

    let files = [link("a", Symlink, "b"), link("b", Symlink, "a"), entry("a/x", Reg), entry("a/y", Reg)];
    assert_eq!(refused(&files), [(2, Reason::LinkLoop), (3, Reason::LinkLoop)], "a loop ends");

    let files = [entry("f", Reg), entry("f/x", Reg)];
    assert_eq!(refused(&files), [(1, Reason::BelowFile)], "nothing is below a file");

    let files =
        [link("d/a", Symlink, "../none/../made/b"), entry("d/a/x", Reg), link("e", Symlink, "/d/a/../c")];
    assert_eq!(
        shown(&[&files[..], &[entry("e/y", Reg)]].concat()),
        [
            "/ d implied n4",
            "/d/ d implied n2",
            "/d/a/ - 0 n1",
            "/e/ - 2 n1",
            "/made/ d implied n4",
            "/made/b/ d implied n2",
            "/made/b/x/ - 1 n1",
            "/made/c/ d implied n2",
            "/made/c/y/ - 3 n1"
        ],
        "what is missing at the end of a link is made there"
    );
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
            "/made/ d implied n2 +",
            "/made/x/ - 8 n1"
        ]
    );

    let files = [
        entry("../.wh.f", Reg),
        entry(".wh.d", Reg),
        entry("d", Reg),
        entry("d/", Dir),
        FileEntry { dev_major: 0, dev_minor: 0, ..entry("c", EntryKind::Char) },
        entry("c/x", Reg),
        entry(".wh..wh.plnk/1.2", Reg),
    ];
    assert_eq!(
        shown(&files),
        ["/ d implied n4", "/c/ d implied n2 +", "/c/x/ - 5 n1", "/d/ d 3 n2 +", "/f/ w n1"],
        "a name that is hidden once stays so"
    );

    let files = [entry("d/.wh.", Reg), entry(".wh.x/y", Reg), entry(".wh...", Dir)];
    let nothing = Reason::WhiteoutOfNothing;
    assert_eq!(refused(&files), [(0, nothing), (1, Reason::BelowWhiteout), (2, nothing)]);
}

#[test]
fn the_last_entry_of_an_inode_describes_it_and_attributes_add_up() {
    let with = |file: FileEntry, name: &str| FileEntry {
        xattrs: vec![(Bytes::from(format!("SCHILY.xattr.{name}")), Bytes::from_static(b"v"))],
        ..file
    };
    let files = [
        with(entry("d/", Dir), "user.a"),
        with(entry("f", Reg), "user.a"),
        entry("d/", Dir),
        with(link("g", HardLink, "f"), "user.b"),
        with(entry("d/", Dir), "user.c"),
    ];
    let tree = build(&files);
    let by = |name: &[u8]| {
        let number = tree.child(&files[..], tree.inode(ROOT).unwrap(), name).unwrap();
        tree.attributed_by(number).collect::<Vec<_>>()
    };
    assert_eq!((by(b"d"), by(b"f"), by(b"g")), (vec![4, 2, 0], vec![3, 1], vec![3, 1]));
}

#[test]
fn hostile_names_are_left_out_or_kept_cheap() {
    let long = "x".repeat(256);
    let deep = "d/".repeat(5000);
    let files = [
        entry(&long, Reg),
        entry(&deep, Dir),
        entry(&format!("{long}/x"), Reg),
        link("s", Symlink, ""),
        link("t", Symlink, &"t".repeat(4096)),
        entry("ok", Reg),
    ];
    let (name, path, target) = (Reason::NameTooLong, Reason::PathTooLong, Reason::LinkTarget);
    assert_eq!(refused(&files), [(0, name), (1, path), (2, name), (3, target), (4, target)]);
    assert_eq!(build(&files).len(), 2);

    let many: Vec<_> = (0..300).map(|at| entry(&format!("{at}/").repeat(900), Dir)).collect();
    let tree = build(&many);
    assert_eq!(tree.refused()[0].reason, Reason::TooManyImplied);
    assert!(tree.len() <= (1 << 18) + 301);

    // Each path goes through as many long links as there may be in one.
    let mut hops: Vec<_> = (0..250)
        .map(|at| link(&at.to_string(), Symlink, &format!("{}{}", "./".repeat(2000), at + 1)))
        .collect();
    hops.extend((0..200).map(|at| entry(&format!("{}0/x", "./".repeat(at)), Reg)));
    assert_eq!(build(&hops).refused()[0].reason, Reason::LinkLoop);
}

#[test]
fn large_layers_stay_small() {
    let files: Vec<_> = (0..100_000).map(|at| entry(&format!("usr/{}/{at}", at % 500), Reg)).collect();
    let tree = build(&files);
    assert_eq!((tree.len(), tree.refused().len()), (100_502, 0));
    assert!(size_of::<Inode>() <= 32, "an inode is what a layer of many files costs");
    let mut seen = Vec::new();
    let visit = |_: u32, path: &[u8]| {
        seen.push(String::from_utf8_lossy(path).into_owned());
        Ok::<_, ()>(path != b"usr")
    };
    tree.each_implied(&files[..], visit).unwrap();
    assert_eq!(seen, ["usr"], "nothing below one that is not wanted");
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
        prop_assert_eq!(refused(&usual), refused(&odd));
    }
}
