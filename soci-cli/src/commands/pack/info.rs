//! `soci pack info`: what one pack holds.

use std::{collections::BTreeMap, fmt::Write};

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use planner::report::words::printable;
use serde::Serialize;
use soci_core::{
    digest::Digest,
    index::CompanionKind,
    pack::{PackHead, Purpose, head_pin},
    units::ByteRange,
};

use super::Pack;
use crate::{
    commands::beside,
    global::Global,
    output::{json, stream},
    root::{self, Root},
    sources::RegistryFlags,
};

/// Show what a pack holds.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Digest of the pack, or IMAGE@DIGEST for one that the image's registry has.
    digest: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryFlags,
}

/// The keys of its JSON are an interface.
#[derive(Serialize)]
struct Info {
    digest: Digest,
    workload: Option<String>,
    /// Attributes of the nodes that it is for.
    selectors: BTreeMap<String, String>,
    image: String,
    platform: String,
    /// The image manifest that it was made for.
    subject: Digest,
    blob: Digest,
    /// Bytes of the blob, of its head, and of all blocks before compression.
    size: u64,
    head_size: u64,
    plain_size: u64,
    blocks: usize,
    /// So many of them are to be had first, with so many stored bytes.
    must_have_blocks: usize,
    must_have_size: u64,
    extents: usize,
    layers: Vec<Layer>,
}

#[derive(Serialize)]
struct Layer {
    digest: Digest,
    extents: usize,
    /// Plain bytes of it in the pack.
    bytes: u64,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let info = if let Some((image, digest)) = args.digest.as_deref().and_then(beside::named) {
        in_registry(image, &digest, &args.registry)?
    } else {
        let digest = root::digest(args.digest.as_deref())?;
        let root = Root::open(global)?;
        let pack = Pack::open(&root, &digest)?;
        let head = pack.head(&root)?;
        let image = pack.record.image_ref.unwrap_or_default();
        let platform = pack.record.platform.unwrap_or_default();
        info(digest, image, platform, pack.purpose, pack.blob.digest, &head)
    };
    if args.json {
        out!("{}", json::pretty(&info)?);
    } else {
        stream::results(&text(&info));
    }
    Ok(())
}

fn in_registry(image: &str, digest: &Digest, registry: &RegistryFlags) -> Result<Info> {
    beside::within(image, registry, async |beside| {
        let found = beside.companion(digest, CompanionKind::Pack).await?;
        let blob = super::blob(&found.manifest).context("the pack's manifest names no blob")?;
        let pin = head_pin(blob).context("the pack's manifest does not say how long its head is")?;
        let fetcher = beside.repository().range_fetcher(blob.digest, blob.size);
        let bytes = fetcher.fetch(ByteRange::new(0, pin.size)).await?.collect().await?;
        let purpose = Purpose::of(&found.manifest.annotations);
        let platform = found.platform.to_string();
        Ok(info(*digest, image.to_owned(), platform, purpose, blob.digest, &pin.open(&bytes)?))
    })
}

fn info(
    digest: Digest,
    image: String,
    platform: String,
    purpose: Purpose,
    blob: Digest,
    head: &PackHead,
) -> Info {
    let layers = head.layers().iter().enumerate().map(|(number, digest)| {
        let own = head.all_extents().iter().filter(|extent| usize::from(extent.layer) == number);
        let (extents, bytes) = own.fold((0, 0), |(n, bytes), extent| (n + 1, bytes + extent.range.len()));
        Layer { digest: *digest, extents, bytes }
    });
    Info {
        digest,
        workload: purpose.workload,
        selectors: purpose.selectors,
        image,
        platform,
        subject: head.image(),
        blob,
        size: head.size(),
        head_size: head.head_size(),
        plain_size: head.plain_size(),
        blocks: head.blocks().len(),
        must_have_blocks: head.must_have(),
        must_have_size: head.blocks().iter().take(head.must_have()).map(|block| block.stored.len()).sum(),
        extents: head.all_extents().len(),
        layers: layers.collect(),
    }
}

fn text(info: &Info) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{:<14} {value}", format!("{name}:")); // a String takes everything
    };
    line("Digest", info.digest.to_string());
    if let Some(name) = &info.workload {
        line("Workload", printable(name.as_bytes()));
    }
    if !info.selectors.is_empty() {
        line("For nodes", super::nodes(&info.selectors));
    }
    line("Image", printable(info.image.as_bytes()));
    line("Platform", info.platform.clone());
    line("Made for", info.subject.to_string());
    line("Blob", info.blob.to_string());
    line("Size", format!("{} bytes (head {})", info.size, info.head_size));
    line("Plain size", format!("{} bytes ({})", info.plain_size, HumanBytes(info.plain_size)));
    let first =
        format!("{} of them ({}) to be had first", info.must_have_blocks, HumanBytes(info.must_have_size));
    line("Blocks", format!("{}, {first}", info.blocks));
    line("Extents", info.extents.to_string());
    for layer in &info.layers {
        line("Layer", format!("{} {} in {} extents", layer.digest, HumanBytes(layer.bytes), layer.extents));
    }
    text
}
