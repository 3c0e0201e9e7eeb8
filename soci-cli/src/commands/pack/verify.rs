//! `soci pack verify`: every byte of a pack against the layers of the image.

use anyhow::{Context, Result};
use soci_core::{index::Event, pack::verify};
use tokio::runtime::Runtime;

use super::Pack;
use crate::{
    global::Global,
    output::{json, progress::Progress},
    root::{self, Root},
    sources::ImageArgs,
};

/// Compare every block of a pack with the layers of the image. The first wrong one is named, with exit code 1.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Digest of the pack.
    digest: Option<String>,
    #[command(flatten)]
    image: ImageArgs,
    /// Say nothing when all is well.
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Print the outcome as JSON; no progress.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let digest = root::digest(args.digest.as_deref())?;
    let root = Root::open(global)?;
    let pack = Pack::open(&root, &digest)?;
    let head = pack.head(&root)?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let (_, images) = runtime.block_on(args.image.resolve(&root))?;
    let image = images.iter().find(|image| image.manifest.digest == head.image()).or(images.first());
    let image = image.context("the image has no platform")?;
    let store = pack.store(&root)?;
    let progress = Progress::new(args.quiet || args.json);
    let tell = |event: Event<'_>| {
        if let Event::Read { blob, bytes } = event {
            progress.advance(blob, bytes);
        }
    };
    let read = |range| store.read_range(&pack.blob.digest, range);
    verify(&head, image, read, runtime.handle(), &tell)
        .with_context(|| format!("pack {digest} is not what the image has"))?;
    if args.json {
        let (image, blocks) = (head.image(), head.blocks().len());
        out!(
            "{}",
            json::pretty(
                &serde_json::json!({ "digest": digest, "manifest": image, "blocks": blocks, "ok": true })
            )?
        );
    }
    progress.line(&format!("pack {digest}: all {} blocks are right", head.blocks().len()));
    Ok(())
}
