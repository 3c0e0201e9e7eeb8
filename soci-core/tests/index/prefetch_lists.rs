//! Prefetch lists: what a line selects in an image of several layers, beside what upstream's rule selects.

use crate::indexed::{Indexed, index_with, settings};
use soci_core::media_type::{OCI_LAYER, OCI_LAYER_GZIP};
use soci_core::prefetch::{Meaning, NotLocated, PrefetchSpan, Selection};
use soci_core::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, gzip};
use soci_core::units::ByteRange;

/// Bytes that no compressor makes small.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn file(name: &str, length: usize) -> TarEntry {
    TarEntry::file(name, noise(name.len() as u64 * 31 + length as u64, length))
}

const LOWER: usize = 0;
const UPPER: usize = 1;
const SMALL: usize = 2;

/// Two layers with zTOCs and a small one on top, without.
fn layers() -> Vec<(&'static str, Vec<u8>)> {
    let lower = [
        TarEntry::dir("usr/"),
        TarEntry::dir("usr/lib/"),
        file("usr/lib/a.so.1", 200_000),
        TarEntry::symlink("usr/lib/a.so", "a.so.1"),
        file("usr/lib/b.so", 150_000),
        TarEntry::dir("usr/lib/deep/"),
        file("usr/lib/deep/c.so", 180_000),
        file("usr/lib/deep/[x]", 90_000),
        TarEntry::file("usr/lib/empty", []),
        TarEntry::symlink("lib", "usr/lib"),
        file("gone", 120_000),
        file("opaque/old", 130_000),
        file("changed", 140_000),
        file("replaced", 100_000),
        TarEntry::hard_link("hard", "usr/lib/b.so"),
    ];
    let upper = [
        file("./dotted/file", 170_000),
        TarEntry::whiteout("gone"),
        TarEntry::opaque("opaque"),
        file("opaque/new", 110_000),
        file("./changed", 160_000),
    ];
    let small = [file("replaced", 10)];
    let tar = |entries: &[TarEntry]| TarBuilder::archive(TarFormat::Pax, entries);
    vec![
        (OCI_LAYER_GZIP, gzip(&GzipShape::Level(6), &tar(&lower))),
        (OCI_LAYER, tar(&upper)),
        (OCI_LAYER, tar(&small)),
    ]
}

fn listed(lines: &[&str], selection: Selection) -> Indexed {
    let mut settings = settings();
    settings.min_layer_size = 50_000;
    settings.selection = selection;
    settings.prefetch_files = lines.iter().map(|&line| line.to_owned()).collect();
    index_with(&layers(), &settings).unwrap()
}

/// The bytes of a file of a layer, by its raw name.
fn content(built: &Indexed, layer: usize, name: &str) -> ByteRange {
    let ztoc = built.ztoc(layer);
    let file = ztoc.files().iter().find(|file| file.name == name.as_bytes()).unwrap();
    file.content_range()
}

/// A layer's artifact names the spans of exactly these files.
fn check(built: &Indexed, layer: usize, files: &[&str]) {
    let ztoc = built.ztoc(layer);
    let mut wanted: Vec<u32> =
        files.iter().flat_map(|name| ztoc.spans().spans_covering(content(built, layer, name))).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let spans = built.artifact(layer).map_or_else(Vec::new, |artifact| artifact.prefetch_spans);
    let named = |range: &PrefetchSpan| range.start_span..=range.end_span;
    let mut named: Vec<u32> = spans.iter().flat_map(named).collect();
    // Upstream's rule, kept here too, may name the span behind the last byte.
    named.retain(|span| wanted.contains(span) || !wanted.contains(&span.wrapping_sub(1)));
    assert_eq!(named, wanted, "{files:?}");
}

#[test]
fn plain_names_give_upstreams_bytes() {
    let lists: [&[&str]; 5] = [
        &["usr/lib/a.so.1"],
        &["/usr/lib/b.so", "opaque/new", " ./usr//lib/../lib/deep/c.so "],
        &["usr/lib/empty"],
        &["nothing", "", "opaque/new"],
        &[],
    ];
    for lines in lists {
        let (ours, theirs) = (listed(lines, Selection::Image), listed(lines, Selection::Upstream));
        assert_eq!(ours.report.index.encode(), theirs.report.index.encode(), "{lines:?}");
    }
}

#[test]
fn links_lead_to_the_file_with_the_bytes() {
    let built = listed(&["lib/a.so", "hard"], Selection::Image);
    assert_eq!(built.chosen[0].meaning, Meaning::Link(b"usr/lib/a.so.1".to_vec()));
    assert_eq!(built.chosen[1].meaning, Meaning::File);
    check(&built, LOWER, &["usr/lib/a.so.1", "usr/lib/b.so"]);
    // Upstream takes the link for the file, or finds nothing.
    let theirs = listed(&["lib/a.so"], Selection::Upstream);
    assert!(theirs.artifact(LOWER).is_none());
}

#[test]
fn names_with_a_dot_in_front_are_found() {
    let built = listed(&["dotted/file", "changed"], Selection::Image);
    check(&built, UPPER, &["./dotted/file", "./changed"]);
    assert!(built.artifact(LOWER).is_none(), "the lower one is not seen in the image");
    let theirs = listed(&["dotted/file", "changed"], Selection::Upstream);
    assert!(theirs.artifact(UPPER).is_none() && theirs.artifact(LOWER).is_some());
}

#[test]
fn directories_are_all_files_below_them() {
    let below = ["usr/lib/a.so.1", "usr/lib/b.so", "usr/lib/deep/c.so", "usr/lib/deep/[x]"];
    for line in ["usr/lib", "/usr/lib/", "lib/", "./usr"] {
        let built = listed(&[line], Selection::Image);
        assert_eq!(built.chosen[0].meaning, Meaning::Directory(4), "{line}");
        check(&built, LOWER, &below);
        assert!(built.artifact(UPPER).is_none());
    }
    let all = listed(&["/"], Selection::Image);
    assert_eq!(all.chosen[0].meaning, Meaning::Directory(9));
    assert_eq!(all.chosen[0].unspanned, 1, "the small layer has no zTOC");
}

#[test]
fn patterns_match_within_names_and_across_directories() {
    for (line, count, files) in [
        ("usr/lib/*.so", 2, &["usr/lib/a.so.1", "usr/lib/b.so"][..]),
        ("lib/*.so.?", 1, &["usr/lib/a.so.1"]),
        ("**/c.so", 1, &["usr/lib/deep/c.so"]),
        ("**/*.so", 3, &["usr/lib/a.so.1", "usr/lib/b.so", "usr/lib/deep/c.so"]),
        ("usr/**", 4, &["usr/lib/a.so.1", "usr/lib/b.so", "usr/lib/deep/c.so", "usr/lib/deep/[x]"]),
        ("usr/lib/[b-d]*", 3, &["usr/lib/b.so", "usr/lib/deep/c.so", "usr/lib/deep/[x]"]),
    ] {
        let built = listed(&[line], Selection::Image);
        assert_eq!(built.chosen[0].meaning, Meaning::Pattern(count), "{line}");
        check(&built, LOWER, files);
    }
    // A file whose name looks like a pattern is that file.
    let built = listed(&["usr/lib/deep/[x]"], Selection::Image);
    assert_eq!(built.chosen[0].meaning, Meaning::File);
    check(&built, LOWER, &["usr/lib/deep/[x]"]);
}

#[test]
fn what_upper_layers_hide_is_not_fetched() {
    let lines = ["gone", "opaque/old", ".wh.gone", "opaque/.wh..wh..opq"];
    let built = listed(&lines, Selection::Image);
    let meanings: Vec<&Meaning> = built.chosen.iter().map(|chosen| &chosen.meaning).collect();
    assert_eq!(meanings[..2], [&Meaning::Hidden, &Meaning::Hidden]);
    assert!((LOWER..=SMALL).all(|layer| layer == SMALL || built.artifact(layer).is_none()));
    // Upstream fetches what was deleted, and the mark that says so.
    let theirs = listed(&lines, Selection::Upstream);
    assert!(theirs.artifact(LOWER).is_some() && theirs.artifact(UPPER).is_some());
}

#[test]
fn a_layer_without_a_ztoc_counts_too() {
    let built = listed(&["replaced"], Selection::Image);
    assert_eq!((&built.chosen[0].meaning, built.chosen[0].unspanned), (&Meaning::File, 1));
    assert!(built.artifact(LOWER).is_none());
    assert!(listed(&["replaced"], Selection::Upstream).artifact(LOWER).is_some());
}

#[test]
fn lines_that_select_nothing_are_told() {
    let built = listed(&["no/such", "no*such", "usr/lib/b.so/x", " "], Selection::Image);
    assert_eq!(built.chosen.len(), 3);
    for chosen in &built.chosen {
        assert_eq!(chosen.meaning, Meaning::Nothing(NotLocated::Missing), "{}", chosen.line);
    }
}
