//! The prefetch artifact, version 1.0: the span ranges of one layer, as JSON.
//!
//! Holds no state. What must always hold: an artifact from [`PrefetchArtifact::parse`] names only spans that exist in
//! the layer it was checked against, in at most [`MAX_RANGES`] ranges.

use serde::{Deserialize, Serialize};

use crate::{
    budget::{Budget, OverLimit},
    json,
    units::SpanId,
};

/// The version that is written and the only one that is read.
pub const VERSION: &str = "1.0";
/// Most ranges accepted in one artifact, of spans and of bytes.
pub const MAX_RANGES: usize = 1 << 20;
/// Largest artifact that is read, bytes.
pub const MAX_BYTES: usize = 16 << 20;
/// Limit: [`MAX_RANGES`], counted before one of them is read.
const RANGES: Budget = Budget::new("prefetch-ranges", MAX_RANGES as u64);

/// Why a prefetch artifact cannot be used. Never a reason to fail a mount.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtifactError {
    /// Over [`MAX_BYTES`].
    #[error("prefetch artifact of {0} bytes is too large")]
    TooLarge(usize),
    /// More ranges than [`MAX_RANGES`].
    #[error("prefetch artifact is refused: {0}")]
    OverLimit(#[from] OverLimit),
    /// Not the expected JSON.
    #[error("prefetch artifact is not valid JSON of its type")]
    Json(#[from] serde_json::Error),
    /// Another version than 1.0.
    #[error("prefetch artifact version {0:?} is not supported")]
    Version(String),
    /// No ranges: nothing to do.
    #[error("prefetch artifact is empty")]
    Empty,
    /// A range of needed bytes that is empty or reversed.
    #[error("needed range {0}..{1} of a prefetch artifact is empty or reversed")]
    Needed(u64, u64),
    /// A range that is reversed or names spans the layer does not have.
    #[error("prefetch range {start}..={end} is outside the layer's spans 0..={max}")]
    Range {
        /// First span named.
        start: i64,
        /// Last span named.
        end: i64,
        /// Last span of the layer.
        max: u32,
    },
}

/// Spans `start_span..=end_span`, and when to fetch them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PrefetchSpan {
    /// First span.
    pub start_span: u32,
    /// Last span, inclusive.
    pub end_span: u32,
    /// Rank over all layers of the image: lower is earlier, ranks start at 1; 0 means no rank and is left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: u64,
    /// What is needed of these spans, in the order of need: half-open ranges of the layer's tar, `[start, end]`. Empty when
    /// it is not known, and then left out. Ours; upstream passes over it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ranges: Vec<[u64; 2]>,
}

/// The span ranges of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrefetchArtifact {
    /// [`VERSION`].
    pub version: String,
    /// The ranges, in the order in which they are to be fetched.
    pub prefetch_spans: Vec<PrefetchSpan>,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    version: String,
    #[serde(default)]
    prefetch_spans: Option<Vec<WireSpan>>,
}

#[derive(Deserialize)]
struct WireSpan {
    #[serde(default)]
    start_span: i64,
    #[serde(default)]
    end_span: i64,
    #[serde(default)]
    priority: i64,
    #[serde(default)]
    ranges: Vec<[u64; 2]>,
}

impl PrefetchArtifact {
    /// An artifact of version 1.0.
    pub fn new(prefetch_spans: Vec<PrefetchSpan>) -> Self {
        Self { version: VERSION.into(), prefetch_spans }
    }

    /// Reads and checks an artifact against the layer's last span. Negative priorities count as no rank. A range that
    /// starts in the layer and ends after it is cut (upstream names the span after the last one of a plain tar).
    ///
    /// # Errors
    /// See [`ArtifactError`]: version, size, counts and every range are checked.
    pub fn parse(bytes: &[u8], max_span: SpanId) -> Result<Self, ArtifactError> {
        if bytes.len() > MAX_BYTES {
            return Err(ArtifactError::TooLarge(bytes.len()));
        }
        // Each range of spans is an object; it may have a list, and in it a list for each range of bytes.
        let shape = json::Shape::of(bytes);
        { RANGES }.spend(shape.objects.saturating_sub(1))?;
        { RANGES }.spend(shape.arrays.saturating_sub(1 + shape.objects))?;
        let wire: Wire = serde_json::from_slice(bytes)?;
        if wire.version != VERSION {
            return Err(ArtifactError::Version(wire.version));
        }
        let spans = wire.prefetch_spans.unwrap_or_default();
        if spans.is_empty() {
            return Err(ArtifactError::Empty);
        }
        { RANGES }.spend(spans.iter().map(|span| span.ranges.len() as u64).sum())?;
        let prefetch_spans = spans
            .into_iter()
            .map(|span| {
                let outside =
                    || ArtifactError::Range { start: span.start_span, end: span.end_span, max: max_span.0 };
                let start_span = u32::try_from(span.start_span).map_err(|_| outside())?;
                let end_span = u32::try_from(span.end_span).map_err(|_| outside())?;
                if start_span > end_span || start_span > max_span.0 {
                    return Err(outside());
                }
                if let Some(&[start, end]) = span.ranges.iter().find(|[start, end]| start >= end) {
                    return Err(ArtifactError::Needed(start, end));
                }
                let (end_span, priority) = (end_span.min(max_span.0), span.priority.max(0) as u64);
                Ok(PrefetchSpan { start_span, end_span, priority, ranges: span.ranges })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { version: wire.version, prefetch_spans })
    }

    /// The artifact's exact bytes.
    pub fn encode(&self) -> Vec<u8> {
        json::to_vec(self).expect("strings and integers always encode")
    }

    /// Number of spans over all ranges (a span in two ranges counts twice, as upstream counts).
    pub fn total_spans(&self) -> u64 {
        self.prefetch_spans.iter().map(|s| u64::from(s.end_span - s.start_span) + 1).sum()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's skip_serializing_if passes a reference
fn is_zero(priority: &u64) -> bool {
    *priority == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: &[u8] =
        br#"{"version":"1.0","prefetch_spans":[{"start_span":0,"end_span":1},{"start_span":5,"end_span":5}]}"#;

    #[test]
    fn upstreams_vector_is_read_and_written_byte_for_byte() {
        let read = PrefetchArtifact::parse(VECTOR, SpanId(5)).unwrap();
        assert_eq!(read.total_spans(), 3);
        assert_eq!(read.encode(), VECTOR);
        let digest = crate::digest::Digest::of(VECTOR).to_string();
        assert!(digest.starts_with("sha256:620c4a116993"), "{digest}");
    }

    #[test]
    fn priority_is_additive() {
        let ranked = PrefetchSpan { start_span: 2, end_span: 3, priority: 7, ranges: Vec::new() };
        let artifact = PrefetchArtifact::new(vec![ranked]);
        let bytes = artifact.encode();
        assert_eq!(
            bytes,
            br#"{"version":"1.0","prefetch_spans":[{"start_span":2,"end_span":3,"priority":7}]}"#
        );
        assert_eq!(PrefetchArtifact::parse(&bytes, SpanId(3)).unwrap(), artifact);
    }

    #[test]
    fn needed_ranges_are_additive_and_checked() {
        let ranges = vec![[70_000, 70_001], [4096, 8192]];
        let artifact =
            PrefetchArtifact::new(vec![PrefetchSpan { start_span: 2, end_span: 3, priority: 7, ranges }]);
        let bytes = artifact.encode();
        assert_eq!(
            bytes,
            br#"{"version":"1.0","prefetch_spans":[{"start_span":2,"end_span":3,"priority":7,"ranges":[[70000,70001],[4096,8192]]}]}"#
        );
        assert_eq!(PrefetchArtifact::parse(&bytes, SpanId(3)).unwrap(), artifact);
        let parse = |ranges: &str| {
            let text = format!(
                r#"{{"version":"1.0","prefetch_spans":[{{"end_span":1,"ranges":{ranges}}},{{"end_span":1}}]}}"#
            );
            PrefetchArtifact::parse(text.as_bytes(), SpanId(3))
        };
        assert_eq!(parse("[[0,1]]").unwrap().prefetch_spans[0].ranges, [[0, 1]]);
        for wrong in ["[[5,5]]", "[[0,1],[7,3]]"] {
            assert!(matches!(parse(wrong), Err(ArtifactError::Needed(..))), "{wrong}");
        }
        for wrong in ["[[-1,5]]", "[[1]]", "[[1,2,3]]", "7", "[[0,18446744073709551616]]"] {
            assert!(matches!(parse(wrong), Err(ArtifactError::Json(_))), "{wrong}");
        }
        let many = format!("[{}[0,1]]", "[0,1],".repeat(MAX_RANGES));
        assert!(
            matches!(parse(&many), Err(ArtifactError::OverLimit(over)) if over.limit == "prefetch-ranges")
        );
    }

    #[test]
    fn hostile_artifacts_are_refused() {
        let parse = |text: &str| PrefetchArtifact::parse(text.as_bytes(), SpanId(9)).unwrap_err();
        assert!(matches!(parse("{}"), ArtifactError::Version(_)));
        assert!(matches!(parse(r#"{"version":"2.0","prefetch_spans":[]}"#), ArtifactError::Version(_)));
        assert!(matches!(parse(r#"{"version":"1.0"}"#), ArtifactError::Empty));
        assert!(matches!(parse(r#"{"version":"1.0","prefetch_spans":null}"#), ArtifactError::Empty));
        for (start, end) in [("10", "10"), ("5", "4"), ("-1", "3"), ("0", "4294967296"), ("-9", "-3")] {
            let text = format!(
                r#"{{"version":"1.0","prefetch_spans":[{{"start_span":{start},"end_span":{end}}}]}}"#
            );
            assert!(matches!(parse(&text), ArtifactError::Range { .. }), "{text}");
        }
        assert!(matches!(parse("[1"), ArtifactError::Json(_)));
        let long = br#"{"version":"1.0","prefetch_spans":[{"start_span":9,"end_span":10}]}"#;
        assert_eq!(PrefetchArtifact::parse(long, SpanId(9)).unwrap().prefetch_spans[0].end_span, 9);
    }
}
