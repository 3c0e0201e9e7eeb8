//! What a recording says: how much of the image was read, from which layers, how soon and with how much waiting.
//!
//! Built from a trace file alone; sizes of the unpacked layers may be added by whoever knows them. [`Summary`] is its
//! figures, [`Report`] all that is shown, [`page`] the page that shows it. Sums of hostile numbers stop at the largest.

mod contents;
mod detail;
mod difference;
mod html;
mod stability;
mod svg;
mod tables;
pub mod timeline;
pub mod words;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use hdrhistogram::Histogram;
use serde::Serialize;
use soci_core::digest::Digest;
use soci_core::trace::{End, Phase, Tail, TraceError, TraceReader};
use soci_core::units::ByteRange;

pub use self::detail::{FileUse, ProcessUse, Report};
pub use self::html::page;
use crate::plan::Coverage;

pub use difference::{Difference, FileDifference, Reason, Share, Side};

pub use contents::{Contents, Flaw, Kinds};
pub use stability::Stability;

/// Figures of one recording.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The image as the user named it.
    pub image: String,
    /// The workload's command line.
    pub argv: Vec<String>,
    /// How it ended; absent when the trace is torn.
    pub end: Option<End>,
    /// Accesses in the trace.
    pub accesses: u64,
    /// Image files read from.
    pub files: u64,
    /// Image files opened and not read from. Only an exact recording knows them.
    pub opened_only: u64,
    /// Distinct bytes of image files read.
    pub bytes: u64,
    /// Distinct bytes by the phase of their first need.
    pub phases: PhaseBytes,
    /// Bytes of file content in the unpacked image, if known.
    pub image_bytes: Option<u64>,
    /// Each layer of the image, lowest first.
    pub layers: Vec<LayerShare>,
    /// Time from the start to each first need, nanoseconds.
    pub first_need_ns: Quantiles,
    /// Time that each request waited for its bytes, nanoseconds; none when the engine does not measure it.
    pub wait_ns: Option<Quantiles>,
}

/// Distinct bytes by phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PhaseBytes {
    /// Before the workload's first instruction.
    pub setup: u64,
    /// Until it was ready.
    pub start: u64,
    /// After it was ready.
    pub tail: u64,
}

/// What was read of one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerShare {
    /// Digest of the compressed layer.
    pub digest: Digest,
    /// Size of the compressed layer in bytes.
    pub compressed_size: u64,
    /// Bytes of file content in the unpacked layer, if known.
    pub content_bytes: Option<u64>,
    /// Files read from.
    pub files: u64,
    /// Distinct bytes read.
    pub bytes: u64,
}

/// Points of a distribution; relative error at most 0.1 %. All zero when there is nothing to count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Largest value.
    pub max: u64,
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: histogram.max() }
    }
}

impl Summary {
    /// Reads a trace. `content_bytes` are the sizes of the unpacked layers, lowest first, or empty when not known.
    pub fn read(trace: &Path, content_bytes: &[u64]) -> Result<Self, TraceError> {
        let mut reader = TraceReader::open(trace)?;
        let mut files: HashMap<(Arc<[u8]>, Option<u32>), Coverage> = HashMap::new();
        let mut phases = PhaseBytes::default();
        let (mut first_need, mut wait) = (histogram(), histogram());
        let mut accesses = 0;
        for access in &mut reader {
            let access = access?;
            accesses += 1;
            note(&mut wait, access.wait_ns);
            let coverage = files.entry((access.path, access.layer)).or_default();
            let range = ByteRange::new(access.offset, access.offset.saturating_add(access.len));
            let new: u64 = coverage.add(range).iter().map(ByteRange::len).sum();
            if new > 0 {
                note(&mut first_need, access.t_ns);
            }
            let phase = match access.phase {
                Phase::Setup => &mut phases.setup,
                Phase::Start => &mut phases.start,
                Phase::Tail => &mut phases.tail,
            };
            *phase = phase.saturating_add(new);
        }
        let end = match reader.tail() {
            Some(Tail::Sealed(end)) => Some(end.clone()),
            _ => None,
        };
        let header = reader.header();
        let mut layers: Vec<LayerShare> = (header.layers.iter().enumerate())
            .map(|(at, layer)| LayerShare {
                digest: layer.digest,
                compressed_size: layer.size,
                content_bytes: content_bytes.get(at).copied(),
                files: 0,
                bytes: 0,
            })
            .collect();
        let all = files.len();
        files.retain(|_, coverage| !coverage.is_empty());
        for ((_, layer), coverage) in &files {
            if let Some(share) = layer.and_then(|layer| layers.get_mut(layer as usize)) {
                share.files += 1;
                share.bytes = share.bytes.saturating_add(coverage.len());
            }
        }
        Ok(Self {
            image: header.image.clone(),
            argv: header.argv.clone(),
            end,
            accesses,
            files: files.len() as u64,
            opened_only: (all - files.len()) as u64,
            bytes: files.values().fold(0, |sum, file| sum.saturating_add(file.len())),
            phases,
            image_bytes: (!content_bytes.is_empty()).then(|| content_bytes.iter().sum()),
            layers,
            first_need_ns: Quantiles::of(&first_need),
            wait_ns: measures_waits(&header.engine).then(|| Quantiles::of(&wait)),
        })
    }
}

/// Are the waits of a trace measurements? Otherwise they are 0 and mean nothing.
fn measures_waits(engine: &str) -> bool {
    match engine.strip_prefix("import:") {
        // Lists know no times; those two may.
        Some(format) => ["strace", "jsonl"].contains(&format),
        None => !engine.starts_with("ebpf"),
    }
}

/// Counts a value; the histogram grows to hold it.
fn note(histogram: &mut Histogram<u64>, value: u64) {
    histogram.record(value).expect("a growing histogram takes every value");
}

/// A histogram that grows with its values and keeps three digits of them.
fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three significant digits are allowed")
}

#[cfg(test)]
mod hostile;

#[cfg(test)]
mod tests {
    use super::*;
    use soci_core::trace::{Access, AccessKind, Header, LayerRef, Outcome, Process, TraceWriter};

    #[test]
    fn a_summary_counts_distinct_bytes_by_layer_and_phase() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.trace");
        let layer = |name: &[u8]| LayerRef { digest: Digest::of(name), size: 10 };
        let header = Header {
            image: "i".into(),
            manifest: Some(Digest::of(b"m")),
            layers: vec![layer(b"0"), layer(b"1")],
            engine: "fuse".into(),
            argv: vec!["x".into()],
            started_at: "2026-01-01T00:00:00Z".into(),
            warm: None,
            waits: None,
            partial: false,
        };
        let mut writer = TraceWriter::create(&path, &header).unwrap();
        let rows = [
            (0, Phase::Setup, "a", 0, 0, 100),
            (1000, Phase::Start, "a", 0, 50, 100),
            (2000, Phase::Start, "b", 1, 0, 10),
            (3000, Phase::Tail, "b", 1, 0, 10),
            (4000, Phase::Tail, "c", 1, 7, 1),
        ];
        for (t_ns, phase, name, layer, offset, len) in rows {
            let process = Arc::new(Process { pid: 1, comm: Arc::from(&b"x"[..]) });
            let path = Arc::from(name.as_bytes());
            let layer = Some(layer);
            let kind = AccessKind::Read;
            writer
                .access(&Access { t_ns, phase, kind, path, layer, offset, len, process, wait_ns: t_ns / 10 })
                .unwrap();
        }
        let end = End {
            dropped: 0,
            outcome: Outcome::Ready,
            ready_ns: Some(2500),
            ended_ns: 5000,
            exit_code: None,
            outside: None,
            links: std::collections::BTreeMap::new(),
        };
        writer.finish(&end).unwrap();

        let summary = Summary::read(&path, &[1000, 20]).unwrap();
        assert_eq!((summary.accesses, summary.files, summary.bytes), (5, 3, 161));
        assert_eq!(summary.phases, PhaseBytes { setup: 100, start: 60, tail: 1 });
        assert_eq!(summary.image_bytes, Some(1020));
        let shares: Vec<_> = summary.layers.iter().map(|l| (l.files, l.bytes, l.content_bytes)).collect();
        assert_eq!(shares, [(1, 150, Some(1000)), (2, 11, Some(20))]);
        assert_eq!(summary.end, Some(end));
        assert!(
            summary.wait_ns.unwrap().max.abs_diff(400) <= 1 && summary.first_need_ns.max.abs_diff(4000) <= 4
        );
    }

    #[test]
    fn waits_are_shown_only_where_an_engine_measures_them() {
        for (engine, measured) in [
            ("fuse", true),
            ("import:strace", true),
            ("ebpf", false),
            ("ebpf-exact", false),
            ("import:stargz", false),
            ("import:nydus", false),
        ] {
            assert_eq!(measures_waits(engine), measured, "{engine}");
        }
    }
}
