//! What a trace file is: its form, how whole it is, and what it has of each kind.
//!
//! Built from the file alone. What must always hold: [`Contents::flaws`] is empty exactly for a trace that holds every
//! first need of its run, as far as the file tells.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use serde::Serialize;
use soci_core::trace::{Access, AccessKind, End, Header, Tail, TraceError, TraceReader};

use super::Summary;
use crate::plan;

/// A trace file described.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contents {
    /// Version of the format.
    pub version: u16,
    /// Feature bits of the format.
    pub flags: u16,
    /// Bytes of the file.
    pub size: u64,
    /// What was recorded.
    pub header: Header,
    /// Is the end there?
    pub sealed: bool,
    /// Where the good bytes end when it is not.
    pub torn_at: Option<u64>,
    /// How the recording ended.
    pub end: Option<End>,
    /// Why it may lack something.
    pub flaws: Vec<Flaw>,
    /// Processes that read.
    pub processes: u64,
    /// Accesses by kind.
    pub kinds: Kinds,
    /// Needed ranges: accesses that are one need are one range.
    pub ranges: u64,
    /// Bytes of the file for each access.
    pub bytes_per_access: f64,
    /// Bytes of the file for each range.
    pub bytes_per_range: f64,
    /// Files, bytes, layers, phases and times.
    pub summary: Summary,
}

/// Accesses by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Kinds {
    /// Read calls.
    pub read: u64,
    /// Page faults.
    pub fault: u64,
    /// Mappings around faults.
    pub map: u64,
    /// Executions.
    pub exec: u64,
    /// Openings.
    pub open: u64,
}

/// Why a trace may lack accesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// Accesses were lost.
    #[error("{0} accesses were lost while recording")]
    Dropped(u64),
    /// The file was not finished, or is cut.
    #[error("it is cut after byte {0}")]
    Torn(u64),
    /// Pages may have been in memory.
    #[error("the page cache was warm: reads of what was in memory are missing")]
    Warm,
    /// The engine sees pages, and not what calls gave.
    #[error("reads were recorded by page events alone: pages that were still being fetched may be missing")]
    Partial,
}

impl Flaw {
    /// The flaws of a trace that was read to its end.
    pub fn of(header: &Header, tail: Option<&Tail>) -> Vec<Self> {
        let tail = match tail {
            Some(Tail::Sealed(end)) => (end.dropped > 0).then_some(Self::Dropped(end.dropped)),
            Some(Tail::Torn { good }) => Some(Self::Torn(*good)),
            None => None,
        };
        let warm = (header.warm == Some(true)).then_some(Self::Warm);
        let partial = header.partial.then_some(Self::Partial);
        tail.into_iter().chain(warm).chain(partial).collect()
    }
}

impl Contents {
    /// Reads a trace file.
    ///
    /// # Errors
    /// When it is no trace, or damaged before its torn tail.
    pub fn read(path: &Path) -> Result<Self, TraceError> {
        let size = fs::metadata(path)?.len();
        let mut reader = TraceReader::open(path)?;
        let accesses = reader.by_ref().collect::<Result<Vec<Access>, _>>()?;
        let mut kinds = Kinds::default();
        let mut processes = HashSet::new();
        for access in &accesses {
            processes.insert(&access.process);
            *match access.kind {
                AccessKind::Read => &mut kinds.read,
                AccessKind::Fault => &mut kinds.fault,
                AccessKind::Map => &mut kinds.map,
                AccessKind::Exec => &mut kinds.exec,
                AccessKind::Open => &mut kinds.open,
            } += 1;
        }
        let ranges = plan::plan(&accesses).items.len() as u64;
        let (torn_at, end) = match reader.tail() {
            Some(Tail::Sealed(end)) => (None, Some(end.clone())),
            Some(Tail::Torn { good }) => (Some(*good), None),
            None => (None, None),
        };
        let each = |count: u64| if count == 0 { 0.0 } else { size as f64 / count as f64 };
        Ok(Self {
            version: reader.version(),
            flags: reader.flags(),
            size,
            sealed: end.is_some(),
            torn_at,
            end,
            flaws: Flaw::of(reader.header(), reader.tail()),
            processes: processes.len() as u64,
            kinds,
            ranges,
            bytes_per_access: each(accesses.len() as u64),
            bytes_per_range: each(ranges),
            header: reader.header().clone(),
            summary: Summary::read(path, &[])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use soci_core::digest::Digest;
    use soci_core::trace::{LayerRef, Outcome, Phase, Process, TraceWriter};

    use super::*;

    /// A start as they are: pages of 300 files, mostly in runs, some microseconds apart, by a few processes.
    fn write(path: &Path, warm: Option<bool>, dropped: u64) {
        let header = Header {
            image: "registry.example/app:1".into(),
            manifest: Some(Digest::of(b"m")),
            layers: vec![LayerRef { digest: Digest::of(b"l"), size: 50_000_000 }],
            engine: "fuse".into(),
            argv: vec!["app".into()],
            started_at: "2026-01-01T00:00:00Z".into(),
            warm,
            waits: None,
            partial: false,
        };
        let mut writer = TraceWriter::create(path, &header).unwrap();
        for at in 0..12_000u64 {
            // Four pages in a row, then another file: no two neighbours are one range for long.
            let (file, page) = (at / 4 % 300, at / 1200 * 40 + at % 4 * 2);
            writer
                .access(&Access {
                    t_ns: at * 47_111,
                    phase: Phase::Start,
                    kind: AccessKind::Read,
                    path: format!("usr/local/lib/python3.14/site-packages/package/module_{file}.so")
                        .into_bytes()
                        .into(),
                    layer: Some(0),
                    offset: (1 << 28) + page * 4096,
                    len: 4096,
                    process: Arc::new(Process { pid: 7 + at as u32 % 5, comm: Arc::from(&b"python3"[..]) }),
                    wait_ns: 150_000 + at,
                })
                .unwrap();
        }
        let end = End {
            dropped,
            outcome: Outcome::Ready,
            ready_ns: Some(1),
            ended_ns: 2,
            exit_code: None,
            outside: None,
            links: std::collections::BTreeMap::new(),
        };
        writer.finish(&end).unwrap();
    }

    #[test]
    fn a_range_costs_at_most_24_bytes_names_included() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.trace");
        write(&path, Some(false), 0);
        let contents = Contents::read(&path).unwrap();
        assert_eq!((contents.ranges, contents.summary.accesses, contents.processes), (12_000, 12_000, 5));
        assert!(contents.bytes_per_range <= 24.0, "{} bytes", contents.bytes_per_range);
        assert_eq!((contents.sealed, contents.flaws.len(), contents.kinds.read), (true, 0, 12_000));
    }

    #[test]
    fn a_range_of_a_real_python_start_costs_at_most_24_bytes() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
        let dir = tempfile::tempdir().unwrap();
        for name in ["pyml-ebpf.trace", "pyml-fuse.trace"] {
            let mut reader = TraceReader::open(&golden.join(name)).unwrap();
            let path = dir.path().join(name);
            let mut writer = TraceWriter::create(&path, reader.header()).unwrap();
            for access in reader.by_ref() {
                writer.access(&access.unwrap()).unwrap();
            }
            let Some(Tail::Sealed(end)) = reader.tail() else { panic!("{name} is whole") };
            writer.finish(end).unwrap();
            let contents = Contents::read(&path).unwrap();
            assert!(contents.ranges > 3000 && contents.bytes_per_range <= 24.0, "{name}: {contents:?}");
        }
    }

    #[test]
    fn flaws_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.trace");
        write(&path, Some(true), 3);
        assert_eq!(Contents::read(&path).unwrap().flaws, [Flaw::Dropped(3), Flaw::Warm]);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let torn = Contents::read(&path).unwrap();
        assert!(
            !torn.sealed
                && matches!(torn.flaws[..], [Flaw::Torn(at), Flaw::Warm] if Some(at) == torn.torn_at)
        );
    }
}
