//! `soci pull`: an image into containerd, its layers by the snapshotter, for who has neither CRI nor nerdctl. containerd's own `ctr`
//! says no snapshotter which layer it wants, but for that of 2.1 and later.
//!
//! What a pull leaves is what containerd's own clients leave: an image, its documents and its snapshots, tied to each other by
//! labels. Blobs of lazy layers are not there. Until the image is named, a lease keeps all of it; a pull that is broken off
//! leaves nothing.

mod layers;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use serde::Serialize;
use soci_core::{
    containerd::Containerd,
    digest::Digest,
    image::{Image, ImageError, ImageIndex, ImageSource, MAX_CONFIG},
    media_type,
    registry::Reference,
    store::{image_index_labels, manifest_labels},
};
use tokio::runtime::Runtime;

use self::layers::{Layer, Layers};
use crate::{
    global::Global,
    help::heading::{INPUT, OUTPUT},
    output::{json, progress::Progress},
    root,
    sources::{PlatformFlags, RegistryFlags},
};

/// What an image's configuration keeps, by containerd's rules: the snapshot of its topmost layer.
const GC_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";
/// Where a blob came from, as containerd notes it.
const SOURCE: &str = "containerd.io/distribution.source.";

/// Pull an image into containerd lazily, for who has neither CRI nor nerdctl.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The image's name in its registry.
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    platforms: PlatformFlags,
    #[command(flatten)]
    registry: RegistryFlags,
    /// Name under which containerd knows the snapshotter.
    #[arg(long, value_name = "NAME", default_value = "soci")]
    snapshotter: String,
    /// Use this SOCI index, not the one that the snapshotter finds.
    #[arg(long, value_name = "DIGEST", help_heading = INPUT)]
    index_digest: Option<Digest>,
    /// Print what was pulled as JSON; no progress.
    #[arg(long, help_heading = OUTPUT)]
    json: bool,
}

/// What was pulled. The keys of its JSON are an interface.
#[derive(Serialize)]
struct Pulled {
    /// The image's name in containerd.
    image: String,
    /// What the name points to.
    digest: Digest,
    platforms: Vec<PulledPlatform>,
}

#[derive(Serialize)]
struct PulledPlatform {
    platform: String,
    manifest: Digest,
    layers: Vec<Layer>,
}

/// Runs the command.
pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let name = args.image.strip_prefix("docker://").unwrap_or(&args.image);
    let reference: Reference =
        name.parse().map_err(|source| ImageError::Reference { text: name.to_owned(), source })?;
    let containerd = root::connect(&global.socket(), global.namespace())?;
    let pulled =
        Runtime::new().context("cannot start the runtime")?.block_on(pull(args, &reference, &containerd))?;
    if args.json {
        out!("{}", json::pretty(&pulled)?);
    }
    Ok(())
}

async fn pull(args: &Args, reference: &Reference, containerd: &Containerd) -> Result<Pulled> {
    let registry = args.registry.registry(&reference.whole())?;
    let source = ImageSource::registry(reference, &registry);
    let leased = containerd.leased().await?;
    let progress = Progress::new(args.json);
    let mut platforms = Vec::new();
    let mut target = None;
    for image in args.platforms.images(&source).await? {
        let unpacking = leased.unpacking(&args.snapshotter).await?;
        let layers = Layers::new(&image, &leased, unpacking, args.index_digest.as_ref())?;
        let (layers, top) = layers.pull(&progress).await?;
        put_documents(&image, &leased, reference, &format!("{GC_SNAPSHOT}{}", args.snapshotter), &top)
            .await?;
        tell(&image, &layers, &progress);
        platforms.push(PulledPlatform {
            platform: image.platform.to_string(),
            manifest: image.manifest.digest,
            layers,
        });
        target = Some(image.target);
    }
    let target = target.context("the image has no platform")?;
    if media_type::is_index(&target.media_type) {
        let raw = source.document().await?.1;
        let listed = ImageIndex::parse(raw.clone(), &target.media_type)?.manifests;
        let kept = image_index_labels(&listed);
        anyhow::ensure!(
            Digest::of(&raw) == target.digest,
            "{} changed while it was pulled: pull it again",
            args.image
        );
        leased.put_blob(raw, with_source(kept, reference)).await?;
    }
    let name = reference.whole();
    leased.put_image(&name, &target).await?;
    progress.line(&format!("{name} -> {}", target.digest));
    Ok(Pulled { image: name, digest: target.digest, platforms })
}

/// Stores configuration and manifest, each with what it keeps.
async fn put_documents(
    image: &Image,
    containerd: &Containerd,
    reference: &Reference,
    snapshot_label: &str,
    top: &str,
) -> Result<()> {
    let config = image.source.blob_of(&image.manifest.config, MAX_CONFIG as u64).await?;
    let keeps = if top.is_empty() { None } else { Some((snapshot_label.to_owned(), top.to_owned())) };
    containerd.put_blob(config, with_source(keeps.into_iter().collect(), reference)).await?;
    let kept = manifest_labels(&image.manifest);
    containerd.put_blob(image.manifest.raw.clone(), with_source(kept, reference)).await?;
    Ok(())
}

fn with_source(mut labels: BTreeMap<String, String>, reference: &Reference) -> BTreeMap<String, String> {
    labels.insert(format!("{SOURCE}{}", reference.registry()), reference.repository().to_owned());
    labels
}

/// A line for each layer, and what to do when none is lazy.
fn tell(image: &Image, layers: &[Layer], progress: &Progress) {
    for layer in layers {
        progress.line(&format!(
            "{} {:>10} {}",
            layer.digest,
            HumanBytes(layer.size).to_string(),
            layer.words()
        ));
    }
    if !layers.is_empty() && !layers.iter().any(Layer::is_lazy) {
        let name = &image.reference;
        progress.note(&format!(
            "no layer is lazy; `soci doctor {name}` says what the image or the machine lacks"
        ));
    }
}
