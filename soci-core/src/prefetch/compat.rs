//! Upstream's prefetch lists: a flat list of paths gives the bytes that upstream's tool would write.
//!
//! Holds no state. Known faults are kept because the bytes depend on them: names are compared with the raw tar names,
//! links and whiteouts are not looked at, and the span after the file's last byte may be named too.

use super::{PrefetchArtifact, PrefetchSpan};
use crate::{
    tree::clean,
    units::{ByteRange, UncompressedOffset},
    ztoc::{Algorithm, Ztoc},
};

/// One artifact for each layer that has any of the files, and the files found nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// By layer, lowest first.
    pub layers: Vec<Option<PrefetchArtifact>>,
    /// Normalised paths that no layer with a zTOC has, in the order of the list.
    pub missing: Vec<String>,
}

/// Finds each path in the topmost layer that has a zTOC and an entry of exactly that name. `ztocs` is lowest first.
pub fn artifacts(paths: &[String], ztocs: &[Option<Ztoc>]) -> Listed {
    let mut found: Vec<Vec<PrefetchSpan>> = vec![Vec::new(); ztocs.len()];
    let mut missing = Vec::new();
    for path in paths.iter().map(|p| p.trim()).filter(|p| !p.is_empty()) {
        let name = normalise(path);
        let hit = ztocs.iter().enumerate().rev().find_map(|(layer, ztoc)| {
            let ztoc = ztoc.as_ref()?;
            let file = ztoc.files().iter().find(|file| file.name == name.as_bytes())?;
            let end = file.content_offset.saturating_add(file.size);
            Some((layer, span_range(ztoc, ByteRange::new(file.content_offset, end))))
        });
        match hit {
            Some((layer, range)) => found[layer].push(range),
            None => missing.push(name),
        }
    }
    let layers = found.into_iter().map(|ranges| {
        let merged = merge(ranges);
        (!merged.is_empty()).then(|| PrefetchArtifact::new(merged))
    });
    Listed { layers: layers.collect(), missing }
}

/// The spans that upstream says a file is in: from that of its first byte to that of the byte after its last one.
pub fn span_range(ztoc: &Ztoc, content: ByteRange) -> PrefetchSpan {
    let span = |offset: u64| match (ztoc.algorithm(), ztoc.spans().span_size()) {
        // Not cut to the last span: that is what upstream writes.
        (Algorithm::Uncompressed, size @ 1..) => u32::try_from(offset / size).unwrap_or(u32::MAX),
        _ => ztoc.spans().span_of(UncompressedOffset(offset)).0,
    };
    PrefetchSpan { start_span: span(content.start), end_span: span(content.end), ..PrefetchSpan::default() }
}

/// Ranges in upstream's order, those that overlap or touch as one.
pub(super) fn merge(mut ranges: Vec<PrefetchSpan>) -> Vec<PrefetchSpan> {
    ranges.sort_by_key(|r| (r.start_span, r.end_span));
    let mut merged: Vec<PrefetchSpan> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(open) if range.start_span <= open.end_span.saturating_add(1) => {
                open.end_span = open.end_span.max(range.end_span);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// `clean("/" + path)` without the leading slash.
pub(super) fn normalise(path: &str) -> String {
    // Nothing but whole parts is taken away.
    String::from_utf8_lossy(&clean(path.as_bytes())).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        for (path, want) in
            [("/a//b/", "a/b"), ("../../x", "x"), ("./a/./b/../c", "a/c"), ("/", ""), ("a", "a")]
        {
            assert_eq!(normalise(path), want);
        }
    }

    #[test]
    fn touching_and_overlapping_ranges_merge() {
        let span = |start_span, end_span| PrefetchSpan { start_span, end_span, ..PrefetchSpan::default() };
        assert_eq!(
            merge(vec![span(7, 7), span(3, 4), span(0, 1), span(2, 2), span(3, 3)]),
            [span(0, 4), span(7, 7)]
        );
    }
}
