//! `soci rebuild-db`: make the records anew from what the content stores hold.

use anyhow::Result;
use soci_core::{index::rebuild, store::ContentStore};

use crate::{cli::Global, root::Root};

/// Make the records anew from what the content store holds.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// No warnings about indexes whose image is not here.
    #[arg(long, short = 'q')]
    quiet: bool,
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
    let names = images.into_iter().map(|image| (image.target.digest, image.name)).collect();
    for index in rebuild(&root.stores()?, &elsewhere, &names, &root.artifacts)? {
        if !args.quiet {
            say!("warning: no image here names the SOCI index {index}; it is left out");
        }
    }
    Ok(())
}
