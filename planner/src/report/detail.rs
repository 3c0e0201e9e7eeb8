//! All that a report shows: the summary, and what was read by each file and process over time.
//!
//! Built from a trace file alone and owns no file. What must always hold: the sums of files and of processes are those
//! of the summary, and no content of a trace can overflow a sum: it stays at the largest number.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use soci_core::digest::Digest;
use soci_core::trace::{Access, Phase, Process, Tail, TraceError, TraceReader};
use soci_core::units::ByteRange;

use super::Summary;
use super::timeline::{Event, Timeline};
use super::words::printable;
use crate::plan::Coverage;

/// A recording, ready to be looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Its figures.
    pub summary: Summary,
    /// The capture engine that recorded.
    pub engine: String,
    /// Digest of the platform's image manifest; absent when a directory was recorded.
    pub manifest: Option<Digest>,
    /// When the workload was started, RFC 3339 UTC.
    pub started_at: String,
    /// Number of good bytes of the trace file when its end is missing.
    pub torn_after: Option<u64>,
    /// Sum of all waits, nanoseconds; none when the engine does not measure them. So are those of files and processes.
    pub waited_ns: Option<u64>,
    /// Files, layer by layer, in the order of their first need.
    pub files: Vec<FileUse>,
    /// Processes, most distinct bytes first.
    pub processes: Vec<ProcessUse>,
    /// Accesses over time.
    pub timeline: Timeline,
}

/// What was read of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileUse {
    /// Path in the image; what is not printable is escaped.
    pub path: String,
    /// Its layer, if known.
    pub layer: Option<u32>,
    /// Number of accesses.
    pub accesses: u64,
    /// Distinct bytes.
    pub bytes: u64,
    /// First access, nanoseconds since the start.
    pub first_need_ns: u64,
    /// Sum of waits, nanoseconds.
    pub wait_ns: Option<u64>,
    /// Only read after the workload was ready.
    pub tail_only: bool,
}

/// What one process read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessUse {
    /// Process id as the recorder saw it; 0 when unknown.
    pub pid: u32,
    /// The kernel's short name of it; what is not printable is escaped.
    pub name: String,
    /// Number of accesses.
    pub accesses: u64,
    /// Bytes that it asked for before any other.
    pub bytes: u64,
    /// Sum of waits, nanoseconds.
    pub wait_ns: Option<u64>,
}

impl Report {
    /// Reads a trace. `content_bytes` are the sizes of the unpacked layers, lowest first, or empty when not known.
    ///
    /// # Errors
    /// When the file cannot be read, is no trace, or has a malformed block.
    pub fn read(trace: &Path, content_bytes: &[u64]) -> Result<Self, TraceError> {
        let summary = Summary::read(trace, content_bytes)?;
        let mut reader = TraceReader::open(trace)?;
        let mut survey =
            Survey { measures_waits: super::measures_waits(&reader.header().engine), ..Survey::default() };
        for access in &mut reader {
            survey.add(&access?);
        }
        let torn_after = match reader.tail() {
            Some(Tail::Torn { good }) => Some(*good),
            _ => None,
        };
        let ended = summary.end.as_ref().map_or(0, |end| end.ended_ns.max(end.ready_ns.unwrap_or(0)));
        let header = reader.header();
        let (engine, manifest) = (header.engine.clone(), header.manifest);
        let started_at = header.started_at.clone();
        let waits = || survey.files.iter().filter_map(|file| file.wait_ns);
        let waited_ns = survey.measures_waits.then(|| waits().fold(0u64, u64::saturating_add));
        let (files, processes, timeline) = survey.finish(ended);
        Ok(Self { summary, engine, manifest, started_at, torn_after, waited_ns, files, processes, timeline })
    }

    /// Files that were read, but not before the workload was ready.
    pub fn tail_only(&self) -> impl Iterator<Item = &FileUse> {
        self.files.iter().filter(|file| file.tail_only)
    }
}

/// What is known while the accesses come by.
#[derive(Debug, Default)]
struct Survey {
    measures_waits: bool,
    ids: HashMap<(Arc<[u8]>, Option<u32>), usize>,
    files: Vec<FileUse>,
    covered: Vec<Coverage>,
    processes: HashMap<Arc<Process>, ProcessUse>,
    events: Vec<Event>,
}

impl Survey {
    fn add(&mut self, access: &Access) {
        let next = self.files.len();
        let id = *self.ids.entry((Arc::clone(&access.path), access.layer)).or_insert(next);
        if id == next {
            self.covered.push(Coverage::default());
            self.files.push(FileUse {
                path: printable(&access.path),
                layer: access.layer,
                accesses: 0,
                bytes: 0,
                first_need_ns: access.t_ns,
                wait_ns: self.measures_waits.then_some(0),
                tail_only: true,
            });
        }
        let range = ByteRange::new(access.offset, access.offset.saturating_add(access.len));
        let new_bytes: u64 = self.covered[id].add(range).iter().map(ByteRange::len).sum();
        let file = &mut self.files[id];
        file.accesses += 1;
        file.bytes += new_bytes;
        file.first_need_ns = file.first_need_ns.min(access.t_ns);
        file.wait_ns = file.wait_ns.map(|sum| sum.saturating_add(access.wait_ns));
        file.tail_only &= access.phase == Phase::Tail;
        let process = self.processes.entry(Arc::clone(&access.process)).or_insert_with(|| ProcessUse {
            pid: access.process.pid,
            name: printable(&access.process.comm),
            accesses: 0,
            bytes: 0,
            wait_ns: self.measures_waits.then_some(0),
        });
        process.accesses += 1;
        process.bytes = process.bytes.saturating_add(new_bytes);
        process.wait_ns = process.wait_ns.map(|sum| sum.saturating_add(access.wait_ns));
        self.events.push(Event { t_ns: access.t_ns, file: id, new_bytes });
    }

    fn finish(self, ended_ns: u64) -> (Vec<FileUse>, Vec<ProcessUse>, Timeline) {
        let mut order: Vec<usize> = (0..self.files.len()).collect();
        order.sort_by_key(|&id| {
            (self.files[id].layer.map_or(u64::MAX, u64::from), self.files[id].first_need_ns, id)
        });
        let mut places = vec![0; order.len()];
        for (place, &id) in order.iter().enumerate() {
            places[id] = place;
        }
        let last = self.events.iter().map(|event| event.t_ns).max().unwrap_or(0);
        let timeline = Timeline::new(&self.events, &places, last.max(ended_ns));
        let files = order.iter().map(|&id| self.files[id].clone()).collect();
        let mut processes: Vec<ProcessUse> = self.processes.into_values().collect();
        processes.sort_by(|a, b| {
            (b.bytes, b.accesses)
                .cmp(&(a.bytes, a.accesses))
                .then_with(|| (a.pid, &a.name).cmp(&(b.pid, &b.name)))
        });
        (files, processes, timeline)
    }
}
