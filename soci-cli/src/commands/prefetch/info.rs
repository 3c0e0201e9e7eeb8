//! `soci prefetch info`: the spans of one artifact.

use std::fmt::Write;

use anyhow::{Result, bail};
use soci_core::{
    prefetch::PrefetchArtifact,
    store::{Artifact, ArtifactKind},
    units::SpanId,
};

use crate::{
    global::Global,
    output::{json, stream},
    root::{self, Root},
};

/// Show the spans of a prefetch artifact.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Digest of the artifact.
    digest: Option<String>,
    /// The artifact as it is stored, indented.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let digest = root::digest(args.digest.as_deref())?;
    let root = Root::open(global)?;
    let record = root.record(&digest)?;
    if record.kind != ArtifactKind::SociPrefetch {
        let kind = match record.kind {
            ArtifactKind::SociIndex => "soci_index",
            ArtifactKind::FineIndex => "fine_index",
            ArtifactKind::Pack => "pack",
            ArtifactKind::SociLayer | ArtifactKind::SociPrefetch => "soci_layer",
        };
        bail!("the provided digest is not a prefetch artifact (type: {kind})");
    }
    // Layers of equal needs share an artifact. As upstream: the layer of the newest record.
    let records = root.list(ArtifactKind::SociPrefetch)?.into_iter().filter(|record| record.digest == digest);
    let record = records.max_by_key(|record| record.created_at).unwrap_or(record);
    let blob = root.read(&digest)?;
    let artifact = PrefetchArtifact::parse(&blob, SpanId(u32::MAX))?;
    if args.json {
        out!("{}", json::indent(&blob)?);
    } else {
        stream::results(&text(&record, &artifact));
    }
    Ok(())
}

fn text(record: &Artifact, artifact: &PrefetchArtifact) -> String {
    let mut text = String::new();
    let created = record.created_at.strftime("%Y-%m-%d %H:%M:%S");
    let spans = &artifact.prefetch_spans;
    let _ = write!(
        text,
        "Digest:        {}\nVersion:       {}\nSpan Ranges:   {}\nLayer Digest:  {}\nSize:          {} bytes\n\
         Created:       {created}\n\nPrefetch Spans:\n",
        record.digest,
        artifact.version,
        spans.len(),
        record.oci_digest,
        record.size,
    );
    for (i, span) in spans.iter().enumerate() {
        let count = u64::from(span.end_span - span.start_span) + 1;
        let (start, end) = (span.start_span, span.end_span);
        let _ = writeln!(text, "  [{i}] StartSpan: {start}, EndSpan: {end} (covers {count} spans)");
        if span.priority != 0 {
            let _ = writeln!(text, "      Priority: {}", span.priority);
        }
        if !span.ranges.is_empty() {
            let needed: u64 = span.ranges.iter().map(|[start, end]| end - start).sum();
            let _ = writeln!(text, "      Needed: {needed} bytes in {} ranges", span.ranges.len());
        }
    }
    let _ = writeln!(text, "\nTotal spans to prefetch: {}", artifact.total_spans());
    text
}
