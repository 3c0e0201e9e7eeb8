//! What a line of a prefetch list means in the image as a container sees it: a file, whatever links lead to it; a
//! directory, for all files below it; or a pattern.
//!
//! Holds no state. What must always hold: where a line names a regular file that upstream's rule ([`super::compat`])
//! finds too, the artifact has upstream's bytes; what upper layers hide or replace is never selected.

use std::collections::HashSet;

use super::compat::{self, merge, normalise};
use super::image_view::{ImageView, Located, NodeKind, NotLocated};
use super::{PrefetchArtifact, PrefetchSpan, pattern};
use crate::ztoc::Ztoc;

/// How the lines of a prefetch list are looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// In the merged image, as this module does.
    #[default]
    Image,
    /// By raw tar names, as upstream's tool does ([`super::compat`]).
    Upstream,
}

/// What a line stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A regular file of that name.
    File,
    /// Another file: the path without links, and no leading slash.
    Link(Vec<u8>),
    /// A directory with so many regular files below it.
    Directory(usize),
    /// A pattern that so many regular files match.
    Pattern(usize),
    /// A file that a lower layer has, and an upper one removes or replaces by something else.
    Hidden,
    /// No file at all.
    Nothing(NotLocated),
}

/// A line, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The line, without white space around it.
    pub line: String,
    /// What it stands for.
    pub meaning: Meaning,
    /// How many of its files lie in layers without a zTOC, which are fetched whole.
    pub unspanned: usize,
}

/// One artifact for each layer that has any of the files, and what became of each line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// By layer, lowest first.
    pub layers: Vec<Option<PrefetchArtifact>>,
    /// The lines that are not blank, in their order.
    pub lines: Vec<Chosen>,
}

/// Looks up every line. `view` numbers layers as `ztocs` does, lowest first.
pub fn artifacts(lines: &[String], view: &ImageView, ztocs: &[Option<Ztoc>]) -> Selected {
    let mut found: Vec<Vec<PrefetchSpan>> = vec![Vec::new(); ztocs.len()];
    let mut selected = Selected::default();
    for line in lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()) {
        let (mut meaning, files) = mean(view, &normalise(line));
        let mut unspanned = 0;
        for file in &files {
            match ztocs.get(file.layer) {
                Some(Some(ztoc)) => found[file.layer].push(compat::span_range(ztoc, file.content)),
                _ => unspanned += 1,
            }
        }
        if meaning == Meaning::Nothing(NotLocated::Missing) && in_some_layer(&normalise(line), ztocs) {
            meaning = Meaning::Hidden;
        }
        selected.lines.push(Chosen { line: line.to_owned(), meaning, unspanned });
    }
    let artifact = |ranges: Vec<PrefetchSpan>| {
        let merged = merge(ranges);
        (!merged.is_empty()).then(|| PrefetchArtifact::new(merged))
    };
    selected.layers = found.into_iter().map(artifact).collect();
    selected
}

/// What a path means, and its files. Empty files are left out unless the path itself is one.
fn mean(view: &ImageView, path: &str) -> (Meaning, Vec<Located>) {
    match view.walk(path.as_bytes()) {
        Ok((own, node)) => match view.kind(node) {
            NodeKind::File(located) if own == path.as_bytes() => (Meaning::File, vec![located]),
            NodeKind::File(located) => (Meaning::Link(own), vec![located]),
            NodeKind::Dir => {
                let files = below(view, vec![node]);
                (Meaning::Directory(files.len()), files)
            }
            NodeKind::Symlink | NodeKind::Other => (Meaning::Nothing(NotLocated::NotRegular), Vec::new()),
        },
        Err(NotLocated::Missing) if pattern::is_one(path) => {
            let files = below(view, pattern::matches(view, path.as_bytes()));
            if files.is_empty() {
                return (Meaning::Nothing(NotLocated::Missing), files);
            }
            (Meaning::Pattern(files.len()), files)
        }
        Err(error) => (Meaning::Nothing(error), Vec::new()),
    }
}

/// The files that are not empty among these nodes and below them, each once.
fn below(view: &ImageView, mut open: Vec<usize>) -> Vec<Located> {
    let (mut files, mut seen) = (Vec::new(), HashSet::new());
    while let Some(node) = open.pop() {
        if !seen.insert(node) {
            continue;
        }
        match view.kind(node) {
            NodeKind::Dir => open.extend(view.children(node).map(|(_, child)| child)),
            NodeKind::File(located) if !located.content.is_empty() => files.push(located),
            NodeKind::File(_) | NodeKind::Symlink | NodeKind::Other => {}
        }
    }
    files
}

/// Whether any layer has a file of this name, seen or not.
fn in_some_layer(path: &str, ztocs: &[Option<Ztoc>]) -> bool {
    let named = |name: &[u8]| {
        let name = name.strip_prefix(b"./").unwrap_or(name);
        name.strip_prefix(b"/").unwrap_or(name) == path.as_bytes()
    };
    ztocs.iter().flatten().any(|ztoc| ztoc.files().iter().any(|file| named(&file.name)))
}
