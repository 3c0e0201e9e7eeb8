//! `soci pack list`: newest first.

use std::{cmp::Reverse, collections::BTreeMap};

use anyhow::Result;
use serde::Serialize;
use soci_core::{digest::Digest, store::ArtifactKind};

use super::Pack;
use crate::{
    commands::index::age,
    global::Global,
    output::{json, stream, table},
    root::Root,
};

/// List the packs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As JSON: an array with an object for each line of the table.
    #[arg(long)]
    json: bool,
}

/// The keys of its JSON are an interface.
#[derive(Serialize)]
struct Row {
    digest: Digest,
    /// `None`: it was given none.
    workload: Option<String>,
    /// Attributes of the nodes that it is for.
    selectors: BTreeMap<String, String>,
    /// Bytes of the blob; `None`: the pack's manifest cannot be read.
    size: Option<u64>,
    image: String,
    platform: String,
    /// The image manifest.
    subject: Digest,
    created_at: String,
    #[serde(skip)]
    age: String,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let root = Root::open(global)?;
    let mut records = root.list(ArtifactKind::Pack)?;
    records.sort_by_key(|record| Reverse(record.created_at));
    let rows: Vec<Row> = records
        .into_iter()
        .map(|record| {
            let pack = Pack::open(&root, &record.digest).ok();
            let size = pack.as_ref().map(|pack| pack.blob.size);
            let purpose = pack.map(|pack| pack.purpose).unwrap_or_default();
            Row {
                digest: record.digest,
                size,
                workload: purpose.workload,
                selectors: purpose.selectors,
                image: record.image_ref.unwrap_or_default(),
                platform: record.platform.unwrap_or_default(),
                subject: record.oci_digest,
                created_at: record.created_at.to_string(),
                age: age(record.created_at),
            }
        })
        .collect();
    if args.json {
        out!("{}", json::pretty(&rows)?);
        return Ok(());
    }
    let mut lines = vec![
        ["DIGEST", "WORKLOAD", "FOR NODES", "SIZE", "IMAGE REF", "PLATFORM", "CREATED"].map(str::to_owned),
    ];
    lines.extend(rows.into_iter().map(|row| {
        let size = row.size.map_or_else(|| "N/A".to_owned(), |size| size.to_string());
        let (workload, nodes) = (row.workload.unwrap_or_default(), super::nodes(&row.selectors));
        [row.digest.to_string(), workload, nodes, size, row.image, row.platform, row.age]
    }));
    stream::results(&table::render(&lines));
    Ok(())
}
