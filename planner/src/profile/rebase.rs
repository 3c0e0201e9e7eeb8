//! A profile of one build applied to another image of the same lineage. Pure.
//!
//! In this order: the same content under the same path; the same content under another path; other content under the same path,
//! or under one that differs in its numbers alone (a library's version). Of changed content the head and the tail of a file keep
//! their places, the rest its share, and all of it at reduced trust. What is not there any more is dropped.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::needs::once_for_each_run;
use super::{Content, File, Need, Profile, Source, Trust};
use crate::plan::Coverage;

const PAGE: u64 = 4096;
/// The part at both ends of a file that keeps its place: headers, section tables, the directory of an archive.
const END: u64 = 64 << 10;
/// Changed files that are not larger are taken whole.
const SMALL: u64 = 128 << 10;

/// Trust in needs whose content moved, changed in a small file, changed in a large one, or was never known.
const MOVED: u16 = 950;
const CHANGED_SMALL: u16 = 900;
const CHANGED: u16 = 600;
const UNKNOWN: u16 = 800;

/// The regular files of an image, as a container sees them.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    files: BTreeMap<Arc<[u8]>, Content>,
    /// By content, then by the file's name, then by path.
    by_content: Vec<(Content, Arc<[u8]>)>,
}

impl Inventory {
    /// Of paths without a leading slash, each once.
    pub fn new(files: impl IntoIterator<Item = (Arc<[u8]>, Content)>) -> Self {
        let files: BTreeMap<Arc<[u8]>, Content> = files.into_iter().collect();
        let mut by_content: Vec<_> =
            files.iter().map(|(path, content)| (*content, Arc::clone(path))).collect();
        by_content.sort_unstable_by(|(a, one), (b, other)| (a, name(one), one).cmp(&(b, name(other), other)));
        Self { files, by_content }
    }

    /// A file with this content: one of this name, if there is one.
    fn with_content(&self, content: Content, wanted: &[u8]) -> Option<&Arc<[u8]>> {
        let from = |wanted: &[u8]| {
            let at =
                self.by_content.partition_point(|(other, path)| (other, name(path)) < (&content, wanted));
            self.by_content.get(at).filter(|(other, _)| *other == content).map(|(_, path)| path)
        };
        from(wanted).filter(|path| name(path) == wanted).or_else(|| from(b""))
    }

    /// The files that a profile does not speak of, by their paths without numbers; `None` where several are alike.
    fn unknown_to(&self, profile: &BTreeMap<Arc<[u8]>, File>) -> HashMap<Vec<u8>, Option<&Arc<[u8]>>> {
        let mut by_shape: HashMap<Vec<u8>, Option<&Arc<[u8]>>> = HashMap::new();
        for path in self.files.keys().filter(|path| !profile.contains_key(*path)) {
            by_shape.entry(shape(path)).and_modify(|only| *only = None).or_insert(Some(path));
        }
        by_shape
    }

    /// What a path has.
    pub fn content(&self, path: &[u8]) -> Option<Content> {
        self.files.get(path).copied()
    }
}

/// What became of a file's needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// The same content under the same path.
    Kept,
    /// The same content under another path.
    Moved,
    /// Other content.
    Changed,
    /// It is not there any more.
    Gone,
}

/// How much of a profile applies to another image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverages {
    /// By fate: files, bytes that any run needs, and those of them that are needed before the workload is ready.
    pub by_fate: BTreeMap<Fate, Amount>,
}

/// Files and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Files.
    pub files: usize,
    /// Bytes that any run needs, in the old content.
    pub bytes: u64,
    /// Those that were read or mapped before the workload was ready.
    pub must_have: u64,
}

impl Coverages {
    /// The share of the must-have bytes that is known to be right: kept or moved. 1 when nothing is must-have.
    pub fn share(&self) -> f64 {
        let all: u64 = self.by_fate.values().map(|amount| amount.must_have).sum();
        let known = [Fate::Kept, Fate::Moved].iter().filter_map(|fate| self.by_fate.get(fate));
        let known: u64 = known.map(|amount| amount.must_have).sum();
        if all == 0 { 1.0 } else { known as f64 / all as f64 }
    }
}

impl Profile {
    /// The same needs in another image.
    pub fn rebase(&self, image: Source, inventory: &Inventory) -> (Self, Coverages) {
        let mut coverages = Coverages::default();
        let mut files: BTreeMap<Arc<[u8]>, File> = BTreeMap::new();
        let unknown = inventory.unknown_to(&self.files);
        for (path, file) in &self.files {
            let found = find(path, file, inventory, &unknown);
            let amount =
                coverages.by_fate.entry(found.as_ref().map_or(Fate::Gone, |found| found.fate)).or_default();
            amount.files += 1;
            amount.bytes += bytes(file, |_| true);
            amount.must_have += bytes(file, |need| need.class.is_before_ready());
            let Some(found) = found else { continue };
            let into = files.entry(found.path).or_insert_with(|| File {
                content: Some(found.content),
                trust: Trust::FULL,
                needs: Vec::new(),
            });
            into.trust = into.trust.min(Trust(file.trust.0.min(found.trust)));
            match found.fate {
                Fate::Changed => {
                    let old = file.content.map(|content| content.size);
                    into.needs
                        .extend(file.needs.iter().filter_map(|need| carry(need, old, found.content.size)));
                }
                _ => into.needs.extend(&file.needs),
            }
        }
        files.retain(|_, file| {
            file.needs = once_for_each_run(std::mem::take(&mut file.needs));
            !file.needs.is_empty()
        });
        (Self { workload: self.workload.clone(), image, runs: self.runs.clone(), files }, coverages)
    }

    /// Adds what the files have, where the profile does not know it: it is of this image.
    #[must_use]
    pub fn with_contents(mut self, inventory: &Inventory) -> Self {
        for (path, file) in &mut self.files {
            file.content = file.content.or_else(|| inventory.content(path));
        }
        self
    }
}

struct Found {
    path: Arc<[u8]>,
    content: Content,
    fate: Fate,
    trust: u16,
}

fn find(
    path: &Arc<[u8]>,
    file: &File,
    inventory: &Inventory,
    unknown: &HashMap<Vec<u8>, Option<&Arc<[u8]>>>,
) -> Option<Found> {
    let here = inventory.content(path);
    let found =
        |path: &Arc<[u8]>, content, fate, trust| Some(Found { path: Arc::clone(path), content, fate, trust });
    let Some(known) = file.content else {
        return here.and_then(|content| found(path, content, Fate::Kept, UNKNOWN));
    };
    if here == Some(known) {
        return found(path, known, Fate::Kept, Trust::FULL.0);
    }
    if known.size > 0
        && let Some(other) = inventory.with_content(known, name(path))
    {
        return found(other, known, Fate::Moved, MOVED);
    }
    let changed = |path: &Arc<[u8]>, content: Content| {
        let trust = if content.size <= SMALL { CHANGED_SMALL } else { CHANGED };
        found(path, content, Fate::Changed, trust)
    };
    if let Some(content) = here {
        return changed(path, content);
    }
    // Another version: the only one of this shape that the profile does not speak of.
    let other = (*unknown.get(&shape(path))?)?;
    changed(other, inventory.content(other)?)
}

/// The last part of a path.
fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

/// A path without its numbers.
fn shape(path: &[u8]) -> Vec<u8> {
    let mut shape = Vec::with_capacity(path.len());
    for &byte in path {
        match byte {
            b'0'..=b'9' if shape.last() == Some(&b'0') => {}
            b'0'..=b'9' => shape.push(b'0'),
            _ => shape.push(byte),
        }
    }
    shape
}

/// Where a need lies in content of another size.
fn carry(need: &Need, old: Option<u64>, new: u64) -> Option<Need> {
    let whole = new.next_multiple_of(PAGE);
    if new <= SMALL {
        return (new > 0).then_some(Need { start: 0, end: whole, ..*need });
    }
    let old = old.filter(|&old| old > 0).unwrap_or(new);
    let place = |at: u64| {
        if at <= END {
            at
        } else if at.saturating_add(END) >= old {
            new.saturating_sub(old.saturating_sub(at.min(old)))
        } else {
            (u128::from(at) * u128::from(new) / u128::from(old)) as u64
        }
    };
    let start = place(need.start).min(new) / PAGE * PAGE;
    let end = place(need.end).max(start + need.range().len().min(PAGE)).next_multiple_of(PAGE).min(whole);
    (start < end).then_some(Need { start, end, ..*need })
}

fn bytes(file: &File, which: impl Fn(&Need) -> bool) -> u64 {
    let mut all = Coverage::default();
    for need in file.needs.iter().filter(|need| which(need)) {
        all.add(need.range());
    }
    all.len()
}

#[cfg(test)]
mod tests {
    use soci_core::digest::Digest;

    use super::*;
    use crate::plan::Class;

    fn content(text: &str, size: u64) -> Content {
        Content { size, digest: Digest::of(text.as_bytes()) }
    }

    fn file(content: Content, needs: &[(u64, u64)]) -> File {
        let needs =
            needs.iter().map(|&(start, end)| Need { start, end, run: 0, t_us: start, class: Class::Start });
        File { content: Some(content), trust: Trust::FULL, needs: needs.collect() }
    }

    fn profile(files: Vec<(&str, File)>) -> Profile {
        let run = super::super::Run {
            started_at: "2026-12-01T00:00:00Z".to_owned(),
            id: Digest::of(b"run"),
            engine: "fuse".to_owned(),
            outcome: super::super::RunEnd::Ready,
            ready_us: Some(1),
            ended_us: 2,
            dropped: 0,
        };
        let files = files.into_iter().map(|(path, file)| (Arc::from(path.as_bytes()), file));
        Profile { workload: String::new(), image: Source::default(), runs: vec![run], files: files.collect() }
    }

    fn inventory(files: &[(&str, Content)]) -> Inventory {
        Inventory::new(files.iter().map(|(path, content)| (Arc::from(path.as_bytes()), *content)))
    }

    fn needs(profile: &Profile, path: &str) -> Vec<(u64, u64)> {
        profile.files[path.as_bytes()].needs.iter().map(|need| (need.start, need.end)).collect()
    }

    #[test]
    fn every_file_finds_its_place_in_the_next_build() {
        let (same, moved, gone) = (content("same", 9000), content("moved", 9000), content("gone", 4096));
        let mib = 1 << 20;
        let before = profile(vec![
            ("bin/same", file(same, &[(0, 4096)])),
            ("old/lib.so", file(moved, &[(4096, 8192)])),
            ("etc/gone", file(gone, &[(0, 4096)])),
            ("lib/libx.so.1.2.3", file(content("x", 10 * mib), &[(0, 8192), (5 * mib, 5 * mib + 4096)])),
            ("app/main.py", file(content("main 1", 5000), &[(0, 4096)])),
        ]);
        let next = inventory(&[
            ("bin/same", same),
            ("new/lib.so", moved),
            ("lib/libx.so.1.2.10", content("y", 20 * mib)),
            ("app/main.py", content("main 2", 9000)),
            ("app/other.py", content("other", 9000)),
        ]);
        let (after, coverages) = before.rebase(Source::default(), &next);
        assert_eq!(needs(&after, "bin/same"), [(0, 4096)]);
        assert_eq!(needs(&after, "new/lib.so"), [(4096, 8192)]);
        assert_eq!(needs(&after, "app/main.py"), [(0, 12288)], "a small file is taken whole");
        let library = needs(&after, "lib/libx.so.1.2.10");
        assert_eq!(library[0], (0, 8192), "its head stays");
        assert_eq!(library[1].0, 10 * mib, "the middle is in the middle");
        assert_eq!(after.files.len(), 4);
        let files = |fate| coverages.by_fate[&fate].files;
        assert_eq!([Fate::Kept, Fate::Moved, Fate::Changed, Fate::Gone].map(files), [1, 1, 2, 1]);
        assert!((coverages.share() - 8192.0 / 28672.0).abs() < 1e-9, "{coverages:?}");
        assert_eq!(after.files[&b"bin/same"[..]].trust, Trust::FULL);
        assert!(after.files[&b"app/main.py"[..]].trust < Trust::FULL);
        assert_eq!(Profile::read(&after.to_bytes()).unwrap(), after);
    }

    #[test]
    fn two_files_that_become_one_need_each_byte_once() {
        let (a, b) = (content("1", 300_000), content("2", 300_000));
        let before = profile(vec![("v1/x", file(a, &[(0, 8192)])), ("v2/x", file(b, &[(4096, 12288)]))]);
        // Both contents are gone; only one file of their shape is there.
        let (after, coverages) =
            before.rebase(Source::default(), &inventory(&[("v3/x", content("3", 300_000))]));
        let all: u64 = needs(&after, "v3/x").iter().map(|(start, end)| end - start).sum();
        assert_eq!((all, coverages.by_fate[&Fate::Changed].files), (12288, 2));
        assert_eq!(Profile::read(&after.to_bytes()).unwrap(), after);
    }

    #[test]
    fn the_tail_of_a_changed_file_stays_its_tail() {
        let need = Need { start: 996 << 10, end: 1000 << 10, run: 0, t_us: 0, class: Class::Start };
        let carried = carry(&need, Some(1000 << 10), 2000 << 10).unwrap();
        assert_eq!((carried.start, carried.end), (1996 << 10, 2000 << 10));
        assert_eq!(carry(&need, Some(1000 << 10), 0), None);
        // Hostile sizes.
        let hostile = Need { start: 1 << 49, end: 1 << 50, ..need };
        assert!(carry(&hostile, Some(1), 1 << 30).is_none_or(|need| need.end <= 1 << 30));
    }
}
