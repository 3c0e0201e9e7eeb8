//! The view of layers on top of each other, and plans mapped through it.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::{tar::EntryKind, units::ByteRange};

fn file(name: &str, start: u64, len: u64) -> LayerFile {
    LayerFile {
        name: Bytes::copy_from_slice(name.as_bytes()),
        kind: EntryKind::Reg,
        content: ByteRange::new(start, start + len),
        link: Bytes::new(),
        device: (0, 1),
    }
}

fn entry(name: &str, kind: EntryKind, link: &str) -> LayerFile {
    LayerFile { kind, link: Bytes::copy_from_slice(link.as_bytes()), ..file(name, 0, 0) }
}

fn view(layers: &[Vec<LayerFile>]) -> ImageView {
    ImageView::build(layers.iter().enumerate())
}

fn layer_of(view: &ImageView, path: &str) -> Result<usize, NotLocated> {
    view.locate(path.as_bytes()).map(|l| l.layer)
}

#[test]
fn a_file_is_found_under_its_own_path_whatever_leads_there() {
    let view = view(&[vec![
        file("usr/lib/x.so.1", 0, 7),
        entry("usr/lib/x.so", EntryKind::Symlink, "x.so.1"),
        entry("lib", EntryKind::Symlink, "usr/lib"),
        entry("deep/er/up", EntryKind::Symlink, "../../lib/./"),
        entry("deep/abs", EntryKind::Symlink, "/lib/x.so"),
        entry("hard", EntryKind::HardLink, "usr/lib/x.so.1"),
    ]]);
    for path in ["usr/lib/x.so.1", "/lib/x.so", "deep/er/up/x.so", "deep/abs", "../lib//../lib/x.so"] {
        let (own, located) = view.find(path.as_bytes()).unwrap();
        assert_eq!((own.as_slice(), located.content.len()), (&b"usr/lib/x.so.1"[..], 7), "{path}");
    }
    assert_eq!(view.find(b"hard").unwrap().0, b"hard");
    assert_eq!(view.find(b"lib"), Err(NotLocated::NotRegular));
}

#[test]
fn upper_layers_hide_replace_and_merge() {
    let view = view(&[
        vec![
            file("d/low", 0, 1),
            file("d/both", 1, 1),
            file("gone", 2, 1),
            file("opq/x", 3, 1),
            file("t", 4, 1),
        ],
        vec![
            file("./d/both", 0, 1),
            entry("./.wh.gone", EntryKind::Reg, ""),
            entry("opq/.wh..wh..opq", EntryKind::Reg, ""),
            file("opq/y", 1, 1),
            file("t/now/a/directory", 2, 1),
        ],
    ]);
    assert_eq!(layer_of(&view, "/d/low"), Ok(0));
    assert_eq!(layer_of(&view, "d/both"), Ok(1));
    assert_eq!(layer_of(&view, "gone"), Err(NotLocated::Missing));
    assert_eq!(layer_of(&view, "opq/x"), Err(NotLocated::Missing));
    assert_eq!(layer_of(&view, "opq/y"), Ok(1));
    assert_eq!(layer_of(&view, "t/now/a/directory"), Ok(1));
    assert_eq!(layer_of(&view, "t"), Err(NotLocated::NotRegular));
}

#[test]
fn a_whiteout_hides_lower_entries_only_whatever_comes_first() {
    for order in [[0, 1], [1, 0]] {
        let upper = [entry(".wh.d", EntryKind::Reg, ""), file("d/new", 5, 1)];
        let upper = order.map(|i| upper[i].clone()).to_vec();
        let view = view(&[vec![file("d/old", 0, 1)], upper]);
        assert_eq!(layer_of(&view, "d/old"), Err(NotLocated::Missing));
        assert_eq!(layer_of(&view, "d/new"), Ok(1));
    }
}

#[test]
fn links_lead_to_content_across_layers() {
    let view = view(&[
        vec![file("usr/lib/libc.so.6", 100, 50), entry("lib", EntryKind::Symlink, "usr/lib")],
        vec![
            file("a", 10, 5),
            entry("hard", EntryKind::HardLink, "./a"),
            file("a", 20, 5),
            entry("cross", EntryKind::HardLink, "usr/lib/libc.so.6"),
            entry("abs", EntryKind::Symlink, "/lib/libc.so.6"),
            entry("up", EntryKind::Symlink, "../../../hard"),
            entry("loop", EntryKind::Symlink, "loop"),
            entry("dangling", EntryKind::HardLink, "nothing"),
        ],
    ]);
    let at = |path: &str| view.locate(path.as_bytes()).map(|l| (l.layer, l.content.start));
    assert_eq!(at("lib/libc.so.6"), Ok((0, 100)));
    assert_eq!(at("abs"), Ok((0, 100)));
    assert_eq!(at("cross"), Err(NotLocated::Missing), "no layer can have a link into another one");
    assert_eq!(at("hard"), Ok((1, 10)), "the content at the time of the link");
    assert_eq!(at("a"), Ok((1, 20)), "the last entry wins");
    assert_eq!(at("up"), Ok((1, 10)));
    assert_eq!(at("loop"), Err(NotLocated::Loop));
    assert_eq!(at("dangling"), Err(NotLocated::Missing));
    assert_eq!(at("lib"), Err(NotLocated::NotRegular));
    assert_eq!(at("a/b"), Err(NotLocated::Missing));
}

#[test]
fn deep_and_long_names_do_no_harm() {
    let deep = "d/".repeat(2000) + "f";
    let long = "x".repeat(5000);
    let view = view(&[vec![file(&deep, 0, 1), file(&long, 1, 1), file("../../e", 2, 1), file("/", 3, 1)]]);
    assert_eq!(layer_of(&view, &deep), Ok(0));
    assert_eq!(layer_of(&view, &long), Err(NotLocated::Missing));
    assert_eq!(layer_of(&view, "e"), Ok(0));
}

fn item(path: &str, start: u64, end: u64) -> PlanItem {
    PlanItem { path: Arc::from(path.as_bytes()), range: ByteRange::new(start, end), first_need_ns: 0 }
}

#[test]
fn needs_are_cut_to_the_file_and_missing_paths_are_named_once() {
    let view = view(&[vec![file("f", 1000, 100)]]);
    let plan = Plan {
        items: vec![
            item("f", 90, 200),
            item("no", 0, 1),
            item("f", 0, 10),
            item("f", 100, 120),
            item("no", 1, 2),
        ],
        asked: 1,
        must_have: 3,
    };
    let needs = Needs::of(&plan, &view);
    assert_eq!(needs.ranges, [(0, ByteRange::new(1090, 1100)), (0, ByteRange::new(1000, 1010))]);
    assert_eq!((needs.asked, needs.must_have), (1, 2));
    assert_eq!(needs.missing, [Arc::from(&b"no"[..])]);
}

#[test]
fn near_ranges_of_a_layer_are_joined() {
    let ranges = [(0, 100, 200), (0, 260, 300), (1, 5, 6), (0, 1000, 1100), (0, 150, 210)];
    let ranges = ranges.map(|(l, a, b)| (l, ByteRange::new(a, b))).to_vec();
    let needs = Needs { ranges, ..Needs::default() };
    let merged =
        |layer, gap| needs.merged(layer, gap).into_iter().map(|r| (r.start, r.end)).collect::<Vec<_>>();
    assert_eq!(merged(0, 64), [(100, 300), (1000, 1100)]);
    assert_eq!(merged(0, 49), [(100, 210), (260, 300), (1000, 1100)]);
    assert_eq!(merged(2, 64), []);
}
