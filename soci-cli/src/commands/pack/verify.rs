//! `soci pack verify`: every byte of a pack against the layers of the image.

use anyhow::{Context, Result, bail};
use soci_core::{index::Event, pack::verify};
use tokio::runtime::Runtime;

use super::Pack;
use crate::{
    cli::Global,
    output::progress::Progress,
    root::{self, Root},
    sources::{self, PlatformFlags, RegistryFlags},
};

/// Compare every block of a pack with the layers of the image. The first wrong one is named, with exit code 1.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Digest of the pack.
    digest: Option<String>,
    /// The image that it was made for.
    image: Option<String>,
    #[command(flatten)]
    platforms: PlatformFlags,
    #[command(flatten)]
    registry: RegistryFlags,
    /// Say nothing when all is well.
    #[arg(long, short = 'q')]
    quiet: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let digest = root::digest(args.digest.as_deref())?;
    let Some(name) = args.image.as_deref().filter(|name| !name.is_empty()) else {
        bail!("please provide the image that the pack was made for");
    };
    let root = Root::open(global)?;
    let pack = Pack::open(&root, &digest)?;
    let head = pack.head(&root)?;
    let runtime = Runtime::new().context("start the runtime")?;
    let images = runtime.block_on(async {
        let source = sources::find(name, &root, &args.registry).await?;
        let mut images = Vec::new();
        for platform in args.platforms.of(&source).await? {
            images.push(source.resolve(&platform).await?);
        }
        Ok::<_, anyhow::Error>(images)
    })?;
    let image = images.iter().find(|image| image.manifest.digest == head.image()).or(images.first());
    let image = image.context("the image has no platform")?;
    let store = pack.store(&root)?;
    let progress = Progress::new(args.quiet);
    let tell = |event: Event<'_>| {
        if let Event::Read { blob, bytes } = event {
            progress.advance(blob, bytes);
        }
    };
    let read = |range| store.read_range(&pack.blob.digest, range);
    verify(&head, image, read, runtime.handle(), &tell)
        .with_context(|| format!("pack {digest} is not what the image has"))?;
    progress.line(&format!("pack {digest}: all {} blocks are right", head.blocks().len()));
    Ok(())
}
