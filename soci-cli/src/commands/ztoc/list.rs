//! `soci ztoc list`: sorted by digest.

use std::collections::HashSet;

use anyhow::{Result, bail};
use serde::Serialize;
use soci_core::{
    digest::Digest,
    index::SociIndex,
    store::{Artifact, ArtifactKind},
};

use crate::{
    global::Global,
    output::{json, stream, table},
    root::{self, Root},
    sources,
};

/// List the zTOCs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this one.
    #[arg(long, value_name = "DIGEST")]
    ztoc_digest: Option<String>,
    /// Only those of the SOCI indexes of this image: as it was named when they were created, or as containerd names it.
    #[arg(long, value_name = "IMAGE")]
    image_ref: Option<String>,
    /// Digests only.
    #[arg(long, short = 'q')]
    quiet: bool,
    /// As JSON: an array with an object for each line of the table.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

/// The keys are an interface.
#[derive(Serialize)]
struct Row {
    digest: Digest,
    /// Bytes of the zTOC.
    size: u64,
    layer_digest: Digest,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let wanted = args.ztoc_digest.as_deref().map(|text| root::digest(Some(text))).transpose()?;
    let root = Root::open(global)?;
    let mut ztocs = root.list(ArtifactKind::SociLayer)?;
    if let Some(name) = &args.image_ref {
        let of_image = of_image(&root, name)?;
        ztocs.retain(|ztoc| of_image.contains(&ztoc.digest));
    }
    if let Some(wanted) = wanted {
        ztocs.retain(|ztoc| ztoc.digest == wanted);
        if ztocs.is_empty() && args.image_ref.is_some() {
            bail!("the specified ztoc doesn't exist or is not associated with the specified image");
        }
    }
    if args.quiet {
        for ztoc in &ztocs {
            out!("{}", ztoc.digest);
        }
        return Ok(());
    }
    if args.json {
        let row =
            |ztoc: &Artifact| Row { digest: ztoc.digest, size: ztoc.size, layer_digest: ztoc.oci_digest };
        out!("{}", json::pretty(&ztocs.iter().map(row).collect::<Vec<_>>())?);
        return Ok(());
    }
    let mut rows = vec![["DIGEST", "SIZE", "LAYER DIGEST"].map(str::to_owned)];
    rows.extend(
        ztocs
            .iter()
            .map(|ztoc| [ztoc.digest.to_string(), ztoc.size.to_string(), ztoc.oci_digest.to_string()]),
    );
    stream::results(&table::render(&rows));
    Ok(())
}

fn of_image(root: &Root, name: &str) -> Result<HashSet<Digest>> {
    let mut ztocs = HashSet::new();
    for record in sources::indexes_of(name, root)? {
        let index = SociIndex::parse(root.read(&record.digest)?)?;
        ztocs.extend(index.ztocs().map(|ztoc| ztoc.digest));
    }
    Ok(ztocs)
}
