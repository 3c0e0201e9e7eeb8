//! `soci pack push`: bring one pack to the registry of its image.

use anyhow::{Context, Result, bail};
use soci_core::{image::ImageError, registry::Reference};
use tokio::runtime::Runtime;

use super::Pack;
use crate::{
    commands::{
        push_companions::{companion, has, hinted, push_parcel},
        pushed::{Pushed, tell},
    },
    global::Global,
    help::heading::OUTPUT,
    output::progress::Progress,
    root::{self, Root},
    sources::RegistryFlags,
};

/// Push one pack to the registry of its image, so that nodes find it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Digest of the pack.
    digest: Option<String>,
    /// The image's name in the registry.
    reference: Option<String>,
    #[command(flatten)]
    registry: RegistryFlags,
    /// Print only the digest of the pack.
    #[arg(long, short = 'q', help_heading = OUTPUT)]
    quiet: bool,
    /// Print what the registry has now as JSON; no progress.
    #[arg(long, help_heading = OUTPUT, conflicts_with = "quiet")]
    json: bool,
}

pub(crate) fn run(mut args: Args, global: &Global) -> Result<()> {
    let digest = root::digest(args.digest.as_deref())?;
    let Some(name) = args.reference.clone().filter(|name| !name.is_empty()) else {
        bail!("please provide an image reference to push");
    };
    let reference: Reference =
        name.parse().map_err(|source| ImageError::Reference { text: name.clone(), source })?;
    let root = Root::open(global)?;
    let pack = Pack::open(&root, &digest)?;
    args.registry.http_dump |= global.debug;
    Runtime::new().context("start the runtime")?.block_on(push(&args, &pack, &name, &reference, &root))
}

async fn push(args: &Args, pack: &Pack, name: &str, reference: &Reference, root: &Root) -> Result<()> {
    let repository = args.registry.registry(&reference.whole())?.repository(reference);
    let say = Progress::new(args.quiet || args.json);
    let subject = pack.manifest.subject.as_ref().context("the pack's manifest has no subject")?.digest;
    if !has(&repository, &subject).await.context("ask for the image manifest")? {
        say!("note: the registry does not have the image manifest {subject}; push the image as well");
    }
    let parcel = companion(root, &subject, &pack.record)?;
    let mut unlisted = Vec::new();
    let pushed = push_parcel(&repository, root, parcel, 2, &mut unlisted, &say).await;
    pushed.map_err(|error| hinted(error.context("push the pack")))?;
    if !unlisted.is_empty() {
        repository.list_referrers(&subject, &unlisted).await.context("push the pack")?;
    }
    if args.quiet {
        out!("{}", pack.record.digest);
    }
    tell(args.json, name, &[Pushed::new(pack.record.digest, "pack")])
}
