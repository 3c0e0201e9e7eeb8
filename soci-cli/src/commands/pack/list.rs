//! `soci pack list`: what is recorded here, newest first, or what a registry has.

use std::{cmp::Reverse, collections::BTreeMap};

use anyhow::Result;
use planner::report::words::printable;
use serde::Serialize;
use soci_core::{digest::Digest, index::CompanionKind, pack::Purpose, store::ArtifactKind};

use super::Pack;
use crate::{
    commands::{beside, index::age},
    global::Global,
    output::{json, stream, table},
    root::Root,
    sources::RegistryFlags,
};

/// List the packs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As JSON: an array with an object for each line of the table.
    #[arg(long)]
    json: bool,
    /// Those that the registry has for this image, in place of those recorded here.
    #[arg(long, value_name = "IMAGE")]
    remote: Option<String>,
    #[command(flatten, next_help_heading = "With --remote")]
    registry: RegistryFlags,
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
    /// `None`: a registry does not say.
    created_at: Option<String>,
    #[serde(skip)]
    age: String,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let rows = match &args.remote {
        Some(name) => in_registry(name, &args.registry)?,
        None => recorded(&Root::open(global)?)?,
    };
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
        let workload = printable(workload.as_bytes());
        [row.digest.to_string(), workload, nodes, size, row.image, row.platform, row.age]
    }));
    stream::results(&table::render(&lines));
    Ok(())
}

fn in_registry(name: &str, registry: &RegistryFlags) -> Result<Vec<Row>> {
    let packs = beside::within(name, registry, async |beside| beside.companions(CompanionKind::Pack).await)?;
    let row = |found: beside::Found| {
        let purpose = Purpose::of(&found.manifest.annotations);
        Row {
            digest: found.manifest.digest,
            workload: purpose.workload,
            selectors: purpose.selectors,
            size: super::blob(&found.manifest).map(|blob| blob.size),
            image: name.to_owned(),
            platform: found.platform.to_string(),
            subject: found.subject,
            created_at: None,
            age: "n/a".to_owned(),
        }
    };
    Ok(packs.into_iter().map(row).collect())
}

fn recorded(root: &Root) -> Result<Vec<Row>> {
    let mut records = root.list(ArtifactKind::Pack)?;
    records.sort_by_key(|record| Reverse(record.created_at));
    let rows = records
        .into_iter()
        .map(|record| {
            let pack = Pack::open(root, &record.digest).ok();
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
                created_at: Some(record.created_at.to_string()),
                age: age(record.created_at),
            }
        })
        .collect();
    Ok(rows)
}
