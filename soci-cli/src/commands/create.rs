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
struct Made<'a> {
    image: &'a str,
    indexes: Vec<Index>,
}

#[derive(Serialize)]
struct Index {
    digest: Digest,
    platform: String,
    /// The image manifest.
    manifest: Digest,
    #[serde(flatten)]
    built: Built,
}

/// Creates one index for each platform.
pub(crate) fn run(args: Args, global: &Global) -> Result<()> {
    let (settings, known) = (args.build.settings(IndexVersion::V1)?, args.build.known()?);
    let root = Root::open(global)?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let (source, images) = runtime.block_on(args.image.resolve(&root))?;
    let store = root.store_for(&source)?;
    let progress = args.build.progress();
    let mut purpose = None;
    let (mut built, mut fine, mut packs) = (Vec::new(), Vec::new(), Vec::new());
    let (heard, mut indexes) = (Heard::default(), Vec::new());
    for image in &images {
        let tell = |event: Event<'_>| {
            heard.hear(&event);
            args.build.tell(event, &progress);
        };
        let settings =
            for_image(&settings, known.as_ref(), args.build.open(), image, runtime.handle(), &tell)?;
        let mut pack = args.build.pack(&settings);
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
            let made = pack::make(image, &image.manifest, Some(report.in_parts()), pack, place, &tell)?;
            packs.push((of, made.descriptor.digest));
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
    if args.build.json {
        out!("{}", json::pretty(&Made { image: source.name(), indexes })?);
    } else if args.build.is_quiet() {
        for (_, index) in &built {
            out!("{index}");
        }
    }
    Ok(())
}
