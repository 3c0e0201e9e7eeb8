//! `soci create`: build the SOCI index of an image and keep it beside the image, or in the local store.
//!
//! Standard output has one line for each layer and each prefetch artifact, in the words of upstream's tool, in the order
//! of completion, or with `--quiet` the digests of the indexes alone. Warnings go to standard error.

use anyhow::{Context, Result};
use serde::Serialize;
use soci_core::{
    digest::Digest,
    index::{Event, IndexVersion, build},
    pack::{self, Destination},
    store::{FINE_INDEX_LABEL, SOCI_INDEX_LABEL},
};
use tokio::runtime::Runtime;

use super::{
    build_args::{BuildArgs, for_image},
    image_labels::{keep_indexes, keep_packs},
    made::{Built, Heard},
    rehearsal::Rehearsal,
};
use crate::{global::Global, output::json, root::Root, sources::ImageArgs};

/// Build the SOCI index of an image, so that nodes can load its layers lazily.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    build: BuildArgs,
}

/// What was made. The keys of its JSON are an interface.
#[derive(Serialize)]
pub(super) struct Made {
    image: String,
    pub(super) indexes: Vec<Index>,
    dry_run: bool,
}

#[derive(Serialize)]
pub(super) struct Index {
    pub(super) digest: Digest,
    platform: String,
    /// The image manifest.
    pub(super) manifest: Digest,
    #[serde(flatten)]
    pub(super) built: Built,
}

/// Creates one index for each platform.
pub(crate) fn run(args: Args, global: &Global) -> Result<()> {
    let made = create(&args.image, &args.build, global)?;
    made.indexes.iter().for_each(|index| args.build.sum_up(&index.built));
    if args.build.json {
        out!("{}", json::pretty(&made)?);
    } else if args.build.is_quiet() {
        for index in &made.indexes {
            out!("{}", index.digest);
        }
    }
    Ok(())
}

/// Creates them, and says only what happens on the way.
pub(super) fn create(image: &ImageArgs, args: &BuildArgs, global: &Global) -> Result<Made> {
    let (settings, known) = (args.settings(IndexVersion::V1)?, args.known()?);
    let rehearsal = args.dry_run.then(Rehearsal::new).transpose()?;
    let global = rehearsal.as_ref().map_or_else(|| global.clone(), |rehearsal| rehearsal.global(global));
    let root = Root::open(&global)?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let (source, images) = runtime.block_on(image.resolve(&root))?;
    let store = root.store_for(&source)?;
    let progress = args.progress();
    let mut purpose = None;
    let (mut built, mut fine, mut packs) = (Vec::new(), Vec::new(), Vec::new());
    let (heard, mut indexes) = (Heard::default(), Vec::new());
    for image in &images {
        let tell = |event: Event<'_>| {
            heard.hear(&event);
            args.tell(event, &progress);
        };
        let settings =
            for_image(&settings, known.as_ref(), args.open(), image, runtime.handle(), &heard, &tell)?;
        let mut pack = args.pack(&settings);
        let report = build(image, &settings, &store, &root.artifacts, runtime.handle(), &tell)?;
        let of = image.manifest.digest;
        built.push((of, report.descriptor.digest));
        fine.extend(report.fine.as_ref().map(|fine| (of, fine.descriptor().digest)));
        if let (Some(pack), Some(plan)) = (&mut pack, &report.plan) {
            pack.plan.clone_from(plan);
        }
        if let Some(pack) = &pack {
            let (artifacts, runtime) = (&root.artifacts, runtime.handle());
            let place =
                Destination { store: &store, beside: &[], artifacts, name: &image.reference, runtime };
            let made = pack::make_beside(image, &image.manifest, report.in_parts(), pack, place, &tell)?;
            packs.extend(made.map(|made| (of, made.descriptor.digest)));
            purpose = Some(pack.purpose.clone());
        }
        indexes.push(Index {
            digest: report.descriptor.digest,
            platform: image.config.platform.to_string(),
            manifest: image.manifest.digest,
            built: heard.take(),
        });
    }
    keep_indexes(&source, &store, SOCI_INDEX_LABEL, &built)?;
    keep_indexes(&source, &store, FINE_INDEX_LABEL, &fine)?;
    if let Some(purpose) = &purpose {
        keep_packs(&store, source.name(), purpose, &packs)?;
    }
    Ok(Made { image: source.name().to_owned(), indexes, dry_run: args.dry_run })
}
