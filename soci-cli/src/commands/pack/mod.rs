//! `soci pack`: working-set packs of the local store.

mod create;
mod info;
mod list;
mod push;
mod rm;
mod verify;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use planner::report::words::printable;
use soci_core::{
    digest::Digest,
    image::{Descriptor, Manifest},
    media_type,
    pack::{PackHead, Purpose, head_pin},
    store::{Artifact, ArtifactKind, ContentStore, StoreError},
    units::ByteRange,
};

use crate::{global::Global, root::Root};

/// Make, list, show, check and push working-set packs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a pack of an image for a workload.
    #[command(
        after_help = "Example:\n  soci pack create --trace web.trace --name web registry.example.com/app:v1"
    )]
    Create(create::Args),
    /// List the packs.
    #[command(visible_alias = "ls")]
    #[command(after_help = "Example:\n  soci pack list")]
    List(list::Args),
    /// Show what a pack holds.
    #[command(after_help = "Example:\n  soci pack info sha256:0f2a...")]
    Info(info::Args),
    /// Compare every block of a pack with the layers of the image.
    #[command(after_help = "Example:\n  soci pack verify sha256:0f2a... registry.example.com/app:v1")]
    Verify(verify::Args),
    /// Push one pack to the registry of its image.
    #[command(after_help = "Example:\n  soci pack push sha256:0f2a... registry.example.com/app:v1")]
    Push(push::Args),
    /// Remove packs, and give their bytes back.
    Rm(rm::Args),
}

impl Command {
    pub(crate) fn run(self, global: &Global) -> Result<()> {
        match self {
            Self::Create(args) => create::run(&args, global),
            Self::List(args) => list::run(&args, global),
            Self::Info(args) => info::run(&args, global),
            Self::Verify(args) => verify::run(&args, global),
            Self::Push(args) => push::run(args, global),
            Self::Rm(args) => rm::run(&args, global),
        }
    }
}

/// A recorded pack.
struct Pack {
    record: Artifact,
    manifest: Manifest,
    purpose: Purpose,
    /// Its blob.
    blob: Descriptor,
}

/// The nodes that a pack is for, in words; empty: all.
fn nodes(selectors: &BTreeMap<String, String>) -> String {
    let selectors: Vec<_> = selectors.iter().map(|(name, value)| format!("{name}={value}")).collect();
    printable(selectors.join(",").as_bytes())
}

/// The blob of a pack.
fn blob(manifest: &Manifest) -> Option<&Descriptor> {
    manifest.layers.iter().find(|layer| layer.media_type == media_type::PACK_BLOCKS)
}

impl Pack {
    /// Reads the manifest of a recorded pack.
    fn open(root: &Root, digest: &Digest) -> Result<Self> {
        let record = root.record(digest)?;
        if record.kind != ArtifactKind::Pack {
            bail!("the provided digest is not a pack");
        }
        let manifest = Manifest::parse(root.read(digest)?, media_type::OCI_MANIFEST)?;
        let blob = blob(&manifest).context("the pack's manifest names no blob")?.clone();
        let purpose = Purpose::of(&manifest.annotations);
        Ok(Self { record, manifest, purpose, blob })
    }

    /// The store that has the blob.
    fn store(&self, root: &Root) -> Result<ContentStore> {
        Ok(root.store_of(&self.blob.digest)?.ok_or(StoreError::NotFound(self.blob.digest))?)
    }

    /// The head, with the digest that the manifest pins.
    fn head(&self, root: &Root) -> Result<PackHead> {
        let pin = head_pin(&self.blob).context("the pack's manifest does not say how long its head is")?;
        let bytes: Bytes = self.store(root)?.read_range(&self.blob.digest, ByteRange::new(0, pin.size))?;
        Ok(pin.open(&bytes)?)
    }
}
