//! `soci pack push`: bring one pack to the registry of its image.
//!
//! Blobs go first, the manifest last: a registry never has a pack that names what is not there.

use anyhow::{Context, Result, bail};
use soci_core::{
    digest::Digest,
    image::{Descriptor, ImageError},
    index::EMPTY_CONFIG,
    media_type,
    registry::{Content, Reference, RegistryError},
};
use tokio::runtime::Runtime;

use super::Pack;
use crate::{
    cli::Global,
    commands::push::push_blobs,
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
    #[arg(long, short = 'q')]
    quiet: bool,
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
    Runtime::new().context("start the runtime")?.block_on(push(&args, &pack, &reference, &root))
}

async fn push(args: &Args, pack: &Pack, reference: &Reference, root: &Root) -> Result<()> {
    let repository = args.registry.registry(&reference.whole())?.repository(reference);
    let say = Progress::new(args.quiet);
    let subject = pack.manifest.subject.as_ref().context("the pack's manifest has no subject")?.digest;
    match repository.manifest(&subject.to_string()).await {
        Ok(_) => {}
        Err(RegistryError::NotFound { .. }) => {
            say.warn(&format!(
                "note: the registry does not have the image manifest {subject}; push the image as well"
            ));
        }
        Err(error) => return Err(error).context("ask for the image manifest"),
    }
    let blobs = vec![
        (Digest::of(EMPTY_CONFIG), Content::Bytes(EMPTY_CONFIG.into())),
        (pack.blob.digest, Content::Bytes(root.read(&pack.blob.digest)?)),
    ];
    push_blobs(&repository, blobs, 2, &say).await.context("push the pack's blobs")?;
    let (digest, raw) = (pack.manifest.digest, &pack.manifest.raw);
    let mut descriptor = Descriptor::new(media_type::OCI_MANIFEST, digest, raw.len() as u64);
    descriptor.artifact_type = pack.manifest.artifact_type.clone();
    descriptor.annotations = pack.manifest.annotations.clone();
    repository.push_referrer(&subject, descriptor, raw).await.context("push the pack's manifest")?;
    if args.quiet {
        println!("{digest}");
    }
    say.line(&format!("successfully pushed pack with digest: {digest}"));
    Ok(())
}
