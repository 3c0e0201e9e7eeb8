//! `soci prefetch list`: sorted by digest.

use anyhow::Result;
use serde::Serialize;
use soci_core::{digest::Digest, prefetch::PrefetchArtifact, store::ArtifactKind, units::SpanId};

use crate::{
    commands::index::age,
    global::Global,
    output::{json, stream, table},
    root::Root,
};

/// List the prefetch artifacts.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    digest: Digest,
    layer_digest: Digest,
    /// -1: the blob cannot be read.
    total_spans: i64,
    created_at: String,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let root = Root::open(global)?;
    let mut records = root.list(ArtifactKind::SociPrefetch)?;
    // Layers of equal needs share an artifact. As upstream: one row, with the layer of the newest record.
    records.sort_by_key(|record| (record.digest, std::cmp::Reverse(record.created_at)));
    records.dedup_by_key(|record| record.digest);
    let spans = |digest: &Digest| {
        let blob = root.read(digest).ok()?;
        let artifact = PrefetchArtifact::parse(&blob, SpanId(u32::MAX)).ok()?;
        i64::try_from(artifact.total_spans()).ok()
    };
    if args.json {
        let rows: Vec<Row> = records
            .iter()
            .map(|record| Row {
                digest: record.digest,
                layer_digest: record.oci_digest,
                total_spans: spans(&record.digest).unwrap_or(-1),
                created_at: record.created_at.to_string(),
            })
            .collect();
        // An empty list is null in Go.
        out!("{}", json::pretty(&(!rows.is_empty()).then_some(rows))?);
        return Ok(());
    }
    let mut rows = vec![["DIGEST", "LAYER DIGEST", "SPANS", "CREATED"].map(str::to_owned)];
    rows.extend(records.iter().map(|record| {
        [
            record.digest.to_string(),
            record.oci_digest.to_string(),
            spans(&record.digest).map_or_else(|| "N/A".to_owned(), |spans| spans.to_string()),
            age(record.created_at),
        ]
    }));
    stream::results(&table::render(&rows));
    Ok(())
}
