//! Two recordings of the same workload side by side: the bytes that only one of them has, and why that may be.
//!
//! Built from the two traces alone; paths are what is compared, layers and times are not. What must always hold: each
//! byte of a file counts once, by the strongest kind of its trace (read, fault, exec, map), so the bytes that only one
//! has and those that both have add up to its own. A file with several names is one file, if one of the traces knows the names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use soci_core::trace::{AccessKind, Tail, TraceError, TraceReader};
use soci_core::units::ByteRange;

use crate::export::kind_name;
use crate::plan::Coverage;
use soci_core::escape::{escape, unescape};

/// From the strongest to the weakest.
const KINDS: [AccessKind; 4] = [AccessKind::Read, AccessKind::Fault, AccessKind::Exec, AccessKind::Map];
/// Bytes of a page, on every machine that records.
const PAGE: u64 = 4096;

/// Why one trace has bytes that the other one lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The kernel mapped them beside a fault.
    Window,
    /// The other trace has a part of the same pages.
    WholePage,
    /// They belong to a file that was executed.
    Executed,
    /// The other run has nothing of the file.
    OtherFile,
    /// They were needed in this run.
    Needed,
}

impl Reason {
    /// What it means.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::Window => {
                "mapped by the kernel around a fault (up to 64 KiB); nobody asked for them, and later uses are silent"
            }
            Self::WholePage => {
                "pages of which the other trace has exact bytes: from O_DIRECT, system calls or an imported list"
            }
            Self::Executed => {
                "of an executed file: the FUSE engine calls all its pages so, the eBPF engine its first ones"
            }
            Self::OtherFile => "of files that the other run did not use at all",
            Self::Needed => {
                "needed in this run: by chance (threads, timers, caches), by O_DIRECT (which passes by the page cache), \
                 or lost"
            }
        }
    }
}

/// Bytes that only one of the traces has, of one kind and for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Share {
    /// How that trace has them.
    #[serde(serialize_with = "name_of_kind")]
    pub kind: AccessKind,
    /// Why the other may not.
    pub reason: Reason,
    /// How many.
    pub bytes: u64,
    /// Of how many files.
    pub files: u64,
}

/// One of the two traces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Side {
    /// What was recorded.
    pub image: String,
    /// By which engine.
    pub engine: String,
    /// Files.
    pub files: u64,
    /// Distinct bytes.
    pub bytes: u64,
    /// Distinct bytes that somebody asked for: not of the kind `map` alone.
    pub needed: u64,
    /// Bytes that the other has not, most first.
    pub only: Vec<Share>,
}

impl Side {
    /// Bytes that the other trace does not have.
    pub fn only_bytes(&self) -> u64 {
        self.only.iter().fold(0, |sum, share| sum.saturating_add(share.bytes))
    }
}

/// A file of which the traces do not have the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileDifference {
    /// Absolute path, as [`escape`] writes it.
    pub path: String,
    /// Bytes that only the first trace has.
    pub only_a: u64,
    /// Bytes that only the second trace has.
    pub only_b: u64,
    /// Bytes that both have.
    pub both: u64,
}

/// Two traces compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The first trace.
    pub a: Side,
    /// The second trace.
    pub b: Side,
    /// Bytes that both have.
    pub both: u64,
    /// Files that differ, most bytes first.
    pub files: Vec<FileDifference>,
}

impl Difference {
    /// Reads and compares two traces.
    ///
    /// # Errors
    /// When one of them is no trace, or damaged before its torn tail; with its place in the call, 0 or 1.
    pub fn read(a: &Path, b: &Path) -> Result<Self, (usize, TraceError)> {
        let (mut a, mut b) =
            (Bytes::read(a).map_err(|error| (0, error))?, Bytes::read(b).map_err(|error| (1, error))?);
        let names = Names::of([&a, &b]);
        for side in [&mut a, &mut b] {
            side.rename(&names);
            side.settle();
        }
        let nothing = File::default();
        let mut files = Vec::new();
        let mut both = 0u64;
        let paths: BTreeSet<&Arc<[u8]>> = a.files.keys().chain(b.files.keys()).collect();
        for path in paths {
            let of = |side: &Bytes| side.files.get(path).map_or(&nothing, |file| file).all();
            let (in_a, in_b) = (of(&a), of(&b));
            let common = in_a.common(&in_b).len();
            both = both.saturating_add(common);
            let (only_a, only_b) = (in_a.len() - common, in_b.len() - common);
            if only_a + only_b > 0 {
                let path = escape(&[b"/", &path[..]].concat()).into_owned();
                files.push(FileDifference { path, only_a, only_b, both: common });
            }
        }
        files.sort_by_key(|file| std::cmp::Reverse(file.only_a.saturating_add(file.only_b)));
        Ok(Self { a: a.against(&b), b: b.against(&a), both, files })
    }
}

/// The bytes of one file, each under one kind.
#[derive(Debug, Default)]
struct File {
    kinds: [Coverage; KINDS.len()],
}

impl File {
    fn all(&self) -> Coverage {
        let mut all = Coverage::default();
        for range in self.kinds.iter().flat_map(Coverage::ranges) {
            all.add(range);
        }
        all
    }
}

#[derive(Debug, Default)]
struct Count {
    bytes: u64,
    files: u64,
}

/// What a trace has.
struct Bytes {
    image: String,
    engine: String,
    files: BTreeMap<Arc<[u8]>, File>,
    /// Other names of a file, by its name, as [`escape`] writes them.
    links: BTreeMap<String, Vec<String>>,
}

/// One name for each file that has several: engines do not take the same one.
struct Names(BTreeMap<Vec<u8>, Arc<[u8]>>);

impl Names {
    fn of(sides: [&Bytes; 2]) -> Self {
        let mut names: BTreeMap<Vec<u8>, Arc<[u8]>> = BTreeMap::new();
        for (name, others) in sides.into_iter().flat_map(|side| &side.links) {
            let all: Vec<Vec<u8>> =
                std::iter::once(name).chain(others).filter_map(|name| unescape(name)).collect();
            let known = all.iter().find_map(|name| names.get(name).cloned());
            let Some(one) = known.or_else(|| all.first().map(|first| Arc::from(&first[..]))) else {
                continue;
            };
            for name in all {
                names.entry(name).or_insert_with(|| one.clone());
            }
        }
        Self(names)
    }
}

impl Bytes {
    fn rename(&mut self, names: &Names) {
        for (name, one) in &names.0 {
            if name[..] != one[..]
                && let Some(file) = self.files.remove(&name[..])
            {
                let all = self.files.entry(one.clone()).or_default();
                for (kind, more) in all.kinds.iter_mut().zip(&file.kinds) {
                    for range in more.ranges() {
                        kind.add(range);
                    }
                }
            }
        }
    }

    /// Each byte under its strongest kind alone.
    fn settle(&mut self) {
        for file in self.files.values_mut() {
            let mut stronger = Coverage::default();
            for kind in &mut file.kinds {
                *kind = kind.without(&stronger);
                for range in kind.ranges() {
                    stronger.add(range);
                }
            }
        }
    }

    fn read(path: &Path) -> Result<Self, TraceError> {
        let mut reader = TraceReader::open(path)?;
        let mut files: BTreeMap<Arc<[u8]>, File> = BTreeMap::new();
        for access in reader.by_ref() {
            let access = access?;
            if access.len == 0 {
                continue; // opened only
            }
            let kind = KINDS.iter().position(|kind| *kind == access.kind).unwrap_or(0);
            let range = ByteRange::new(access.offset, access.offset.saturating_add(access.len));
            files.entry(access.path).or_default().kinds[kind].add(range);
        }
        let links = match reader.tail() {
            Some(Tail::Sealed(end)) => end.links.clone(),
            _ => BTreeMap::new(),
        };
        let header = reader.header();
        Ok(Self { image: header.image.clone(), engine: header.engine.clone(), files, links })
    }

    fn against(&self, other: &Self) -> Side {
        let mut counts: BTreeMap<(usize, Reason), Count> = BTreeMap::new();
        let (mut bytes, mut needed) = (0u64, 0u64);
        for (path, file) in &self.files {
            let theirs = other.files.get(path).map(File::all);
            let touched = theirs.as_ref().map(whole_pages).unwrap_or_default();
            for (at, covered) in file.kinds.iter().enumerate() {
                bytes = bytes.saturating_add(covered.len());
                if KINDS[at] != AccessKind::Map {
                    needed = needed.saturating_add(covered.len());
                }
                let only = theirs.as_ref().map_or_else(|| covered.clone(), |theirs| covered.without(theirs));
                let of_touched_pages = only.common(&touched);
                let rest = match KINDS[at] {
                    _ if theirs.is_none() => Reason::OtherFile,
                    AccessKind::Map => Reason::Window,
                    AccessKind::Exec => Reason::Executed,
                    AccessKind::Read | AccessKind::Fault | AccessKind::Open => Reason::Needed,
                };
                let pieces = [
                    (Reason::WholePage, of_touched_pages.len()),
                    (rest, only.len() - of_touched_pages.len()),
                ];
                for (reason, bytes) in pieces.into_iter().filter(|(_, bytes)| *bytes > 0) {
                    let count = counts.entry((at, reason)).or_default();
                    count.bytes = count.bytes.saturating_add(bytes);
                    count.files += 1;
                }
            }
        }
        let share = |((at, reason), count): ((usize, Reason), Count)| Share {
            kind: KINDS[at],
            reason,
            bytes: count.bytes,
            files: count.files,
        };
        let mut only: Vec<Share> = counts.into_iter().map(share).collect();
        only.sort_by_key(|share| std::cmp::Reverse(share.bytes));
        Side {
            image: self.image.clone(),
            engine: self.engine.clone(),
            files: self.files.len() as u64,
            bytes,
            needed,
            only,
        }
    }
}

/// All of the pages of which a set has a byte.
fn whole_pages(covered: &Coverage) -> Coverage {
    let mut pages = Coverage::default();
    for range in covered.ranges() {
        let end = range.end.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
        pages.add(ByteRange::new(range.start / PAGE * PAGE, end));
    }
    pages
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn name_of_kind<S: Serializer>(kind: &AccessKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind_name(*kind))
}

#[cfg(test)]
mod tests {
    use soci_core::digest::Digest;
    use soci_core::trace::{Access, End, Header, Outcome, Phase, Process, TraceWriter};

    use super::*;

    type Row = (AccessKind, &'static str, u64, u64);

    fn write(path: &Path, engine: &str, rows: &[Row]) {
        write_with(path, engine, rows, &[]);
    }

    fn write_with(path: &Path, engine: &str, rows: &[Row], links: &[(&str, &[&str])]) {
        let header = Header {
            image: "i".into(),
            manifest: Some(Digest::of(b"m")),
            layers: Vec::new(),
            engine: engine.into(),
            argv: Vec::new(),
            started_at: "2026-01-01T00:00:00Z".into(),
            warm: None,
            waits: None,
            partial: false,
        };
        let mut writer = TraceWriter::create(path, &header).unwrap();
        for &(kind, path, offset, len) in rows {
            let process = Arc::new(Process { pid: 1, comm: Arc::from(&b"x"[..]) });
            let (path, layer) = (Arc::from(path.as_bytes()), None);
            let (t_ns, phase, wait_ns) = (0, Phase::Start, 0);
            writer.access(&Access { t_ns, phase, kind, path, layer, offset, len, process, wait_ns }).unwrap();
        }
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let end = End {
            dropped: 0,
            outcome: Outcome::Exited,
            ready_ns: None,
            ended_ns: 0,
            exit_code: None,
            outside: None,
            links: links.iter().map(|&(name, others)| (name.to_owned(), owned(others))).collect(),
        };
        writer.finish(&end).unwrap();
    }

    #[test]
    fn names_of_one_file_are_one_file() {
        use AccessKind::{Map, Read};
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        // One engine takes the first of all names, and says the others; the other the name by which the file was met.
        let ebpf = [(Map, "bin/perl", 0, 65536), (Read, "bin/perl", 0, 4096)];
        write_with(&a, "ebpf", &ebpf, &[("bin/perl", &["bin/perl5.36", "usr/\\\\p"])]);
        let fuse = [(Read, "bin/perl5.36", 0, 4096), (Read, "usr/\\p", 4096, 4096)];
        write(&b, "fuse", &fuse);
        for (one, two) in [(&a, &b), (&b, &a)] {
            let difference = Difference::read(one, two).unwrap();
            let Difference { a, b, both, files } = difference;
            assert_eq!((a.files, b.files, both), (1, 1, 8192));
            let ebpf = if a.engine == "ebpf" { &a } else { &b };
            let only: Vec<_> =
                ebpf.only.iter().map(|share| (share.kind, share.reason, share.bytes)).collect();
            assert_eq!(only, [(Map, Reason::Window, 65536 - 8192)]);
            assert_eq!((files.len(), &*files[0].path), (1, "/bin/perl"));
        }
    }

    #[test]
    fn each_byte_counts_once_and_has_a_reason() {
        use AccessKind::{Exec, Fault, Map, Read};
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        write(
            &a,
            "ebpf",
            &[
                (Map, "lib", 0, 65536),
                (Fault, "lib", 8192, 4096),
                (Read, "direct", 0, 4096),
                (Read, "only\n", 0, 10),
                (Exec, "app", 0, 4096),
            ],
        );
        write(
            &b,
            "fuse",
            &[
                (Read, "lib", 8192, 4096),
                (Read, "lib", 0, 4096),
                (Read, "direct", 100, 50),
                (Read, "direct", 40960, 8192),
                (Exec, "app", 0, 12288),
            ],
        );
        let difference = Difference::read(&a, &b).unwrap();
        let of = |side: &Side| -> Vec<_> {
            side.only.iter().map(|s| (s.kind, s.reason, s.bytes, s.files)).collect()
        };
        let Difference { a, b, both, files } = difference;
        assert_eq!((a.files, a.bytes, a.needed, both), (4, 65536 + 4096 + 10 + 4096, 4096 * 3 + 10, 12338));
        assert_eq!(
            of(&a),
            [
                (Map, Reason::Window, 65536 - 8192, 1),
                (Read, Reason::WholePage, 4046, 1),
                (Read, Reason::OtherFile, 10, 1),
            ]
        );
        let mut only_b = of(&b);
        only_b.sort_by_key(|share| share.1);
        assert_eq!(only_b, [(Exec, Reason::Executed, 8192, 1), (Read, Reason::Needed, 8192, 1)]);
        assert_eq!((a.only_bytes() + both, b.only_bytes() + both), (a.bytes, b.bytes));
        let files: Vec<_> = files.iter().map(|f| (&*f.path, f.only_a, f.only_b, f.both)).collect();
        assert_eq!(files[0], ("/lib", 57344, 0, 8192));
        assert!(files.iter().any(|file| file.0 == "/only\n" && file.1 == 10), "{files:?}");
        assert_eq!(files.len(), 4);
    }

    #[test]
    fn the_trace_that_fails_is_named_and_hostile_ranges_are_survived() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        write(&a, "x", &[(AccessKind::Map, "f", u64::MAX - 9, 9), (AccessKind::Read, "f", 0, 0)]);
        assert!(matches!(Difference::read(&a, &b), Err((1, TraceError::Io(_)))));
        write(&b, "x", &[(AccessKind::Read, "f", u64::MAX - 5, 5)]);
        let difference = Difference::read(&a, &b).unwrap();
        assert_eq!((difference.both, difference.a.only_bytes()), (5, 4));
    }
}
