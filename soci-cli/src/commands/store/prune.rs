//! `soci store prune`: removes artifacts from the local store with all that only they kept.
//!
//! Standard output has a line for each artifact that goes and the sum, or with `--json` one object.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use soci_core::{
    digest::Digest,
    duration,
    store::{ArtifactKind, Prune, Removed, prune},
};

use crate::{global::Global, output::json, root::Root};

/// Remove from the local store what is not needed any more.
///
/// Always removed: indexes forgotten by `soci index rm`, and zTOCs and prefetch artifacts that no index names, once they are
/// a day old. What an index, fine index, pack or named image of the store refers to stays. Artifacts in containerd are not
/// touched: containerd collects those that no image refers to.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: soci store prune --keep 2 --older-than 720h --dry-run")]
pub(crate) struct Args {
    /// Of each kind, for each image, platform and workload, keep the N newest indexes, fine indexes and packs [default: all].
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Remove only indexes, fine indexes and packs that were made longer ago than this (90m, 72h); without --keep, all of them.
    #[arg(long, value_name = "DURATION", value_parser = age)]
    older_than: Option<Duration>,
    /// Also remove artifacts that have no record, and blobs that nothing in the store names, once they are a day old: left-overs
    /// of a crash, and the copies that a snapshotter with the same root keeps for its restart (it fetches them again).
    #[arg(long)]
    unrecorded: bool,
    /// Remove nothing; say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object: what went, and how many bytes.
    #[arg(long)]
    json: bool,
}

/// The keys of its JSON are an interface.
#[derive(Serialize)]
struct Answer {
    dry_run: bool,
    artifacts: Vec<Row>,
    /// How many blobs.
    blobs: usize,
    /// Their bytes.
    bytes: u64,
}

#[derive(Serialize)]
struct Row {
    digest: Digest,
    kind: ArtifactKind,
    image: Option<String>,
    platform: Option<String>,
    created_at: String,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let root = Root::open(global)?;
    let before = args.older_than.map(|age| jiff::Timestamp::now().checked_sub(age)).transpose();
    let before = before.context("--older-than reaches back too far")?;
    let what = Prune { keep: args.keep, before, unrecorded: args.unrecorded, dry_run: args.dry_run };
    let removed = prune(root.layout(), &root.artifacts, what)?;
    if args.json {
        out!("{}", json::pretty(&answer(args, &removed))?);
        return Ok(());
    }
    for record in &removed.records {
        let of = record.image_ref.clone().unwrap_or_else(|| record.oci_digest.to_string());
        out!("{} {} of {of}", word(record.kind), record.digest);
    }
    let (count, bytes) = (removed.blobs.len(), removed.bytes());
    let done = if args.dry_run { "would remove" } else { "removed" };
    out!("{done} {} artifacts, {count} blobs, {bytes} bytes", removed.records.len());
    Ok(())
}

fn answer(args: &Args, removed: &Removed) -> Answer {
    let rows = removed.records.iter().map(|record| Row {
        digest: record.digest,
        kind: record.kind,
        image: record.image_ref.clone(),
        platform: record.platform.clone(),
        created_at: record.created_at.to_string(),
    });
    Answer {
        dry_run: args.dry_run,
        artifacts: rows.collect(),
        blobs: removed.blobs.len(),
        bytes: removed.bytes(),
    }
}

fn word(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::SociIndex => "index",
        ArtifactKind::SociLayer => "zTOC",
        ArtifactKind::SociPrefetch => "prefetch artifact",
        ArtifactKind::FineIndex => "fine index",
        ArtifactKind::Pack => "pack",
    }
}

fn age(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| format!("{text:?} is not a duration such as 90m or 72h"))
}
