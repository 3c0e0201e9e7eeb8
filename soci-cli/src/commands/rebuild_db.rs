//! `soci rebuild-db`: make the records anew from what the content stores hold.

use anyhow::Result;
use serde::Serialize;
use soci_core::{
    digest::Digest,
    index::{Images, rebuild},
    store::{ArtifactKind, ContentStore},
};

use crate::{global::Global, output::json, root::Root};

/// Make the records anew from what the content store holds.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// No warnings about indexes whose image is not here.
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Print how many records there are of each kind, and the indexes that are left out, as JSON.
    #[arg(long)]
    json: bool,
}

/// The keys of its JSON are an interface.
#[derive(Serialize)]
struct Outcome {
    indexes: usize,
    ztocs: usize,
    prefetch_artifacts: usize,
    fine_indexes: usize,
    packs: usize,
    left_out: Vec<Digest>,
}

/// Drops records of what is gone and adds those that are missing.
pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let root = Root::open(global)?;
    let images = match root.containerd()? {
        Some(containerd) => {
            let it = containerd.clone();
            containerd.wait(async move { it.images().await })?
        }
        None => Vec::new(),
    };
    let elsewhere: Vec<_> = root.containerd()?.cloned().map(ContentStore::Containerd).into_iter().collect();
    let known = Images {
        tied: images.iter().flat_map(|image| image.keeps.iter().copied()).collect(),
        names: images.into_iter().map(|image| (image.target.digest, image.name)).collect(),
    };
    let left_out = rebuild(&root.stores()?, &elsewhere, &known, &root.artifacts)?;
    for index in left_out.iter().filter(|_| !args.quiet) {
        say!("warning: no image here names the SOCI index {index}; it is left out");
    }
    if args.json {
        let count = |kind| Ok::<_, anyhow::Error>(root.list(kind)?.len());
        let outcome = Outcome {
            indexes: count(ArtifactKind::SociIndex)?,
            ztocs: count(ArtifactKind::SociLayer)?,
            prefetch_artifacts: count(ArtifactKind::SociPrefetch)?,
            fine_indexes: count(ArtifactKind::FineIndex)?,
            packs: count(ArtifactKind::Pack)?,
            left_out,
        };
        out!("{}", json::pretty(&outcome)?);
    }
    Ok(())
}
