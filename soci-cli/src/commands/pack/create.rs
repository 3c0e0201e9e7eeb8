//! `soci pack create`: a pack of an image that is indexed already, or is to be indexed elsewhere.

use anyhow::{Context, Result};
use serde::Serialize;
use soci_core::{
    image::{Image, Manifest},
    index::{Event, InParts, SociIndex, fine_tables},
    media_type,
    pack::{Budget, Destination, PackSettings, Selector, make},
    store::ArtifactKind,
};
use tokio::runtime::Runtime;

use crate::{
    commands::{
        evidence::Evidence, globs::Globs, image_labels::keep_packs, made, modelled::advised_beside_pack,
        pack_args, rehearsal::Rehearsal, told,
    },
    global::Global,
    hint::Hinted,
    output::{json, progress::Progress},
    root::Root,
    sources::ImageArgs,
};

/// Make a pack of an image for a workload. Layers are those with a zTOC in the image's newest index here, or with a table in
/// its newest fine index; without an index, all that can be read.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    image: ImageArgs,
    #[command(flatten)]
    evidence: Evidence,
    #[command(flatten)]
    globs: Globs,
    /// Name of the workload; an image can have a pack for each of several. A pack takes the place of the image's one with
    /// the same name.
    #[arg(long, alias = "pack-name", value_name = "NAME")]
    name: Option<String>,
    /// Only for nodes that have this attribute in the `[pack.attributes]` of their configuration. May be repeated: all must be
    /// there. If several packs match a node, the one with the most matching
    /// selectors wins.
    #[arg(long, alias = "pack-selector", value_name = "NAME=VALUE")]
    selector: Vec<Selector>,
    /// Largest size of the pack, in bytes (20MB, 16MiB) or as a share of the image as it is stored (25%): what is needed
    /// last is left out.
    #[arg(long, alias = "pack-budget", value_name = "SIZE", value_parser = pack_args::budget)]
    budget: Option<Budget>,
    /// Tell nodes to pull the image whole when that is predicted to be faster than this pack. Reads the layers once more.
    #[arg(long)]
    advise: bool,
    /// Say what would be made, and keep nothing: all of it is made in a temporary directory, which is removed.
    #[arg(long)]
    dry_run: bool,
    /// Print only the digest of the pack; no progress.
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Print the packs as JSON; no progress.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

/// What was made. The keys of its JSON are an interface.
#[derive(Serialize)]
struct Made<'a> {
    image: &'a str,
    plans: Vec<made::PlanOf>,
    packs: Vec<made::Pack>,
    dry_run: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let known = args.evidence.read(args.name.as_deref().unwrap_or_default())?;
    let known = known.ok_or_else(|| {
        Hinted::new("what the pack is for is not said", "give it a --trace or a --profile of the workload")
    })?;
    let known = known.within(args.globs.paths(true)?);
    let purpose = pack_args::purpose(args.name.as_ref(), &args.selector);
    let rehearsal = args.dry_run.then(Rehearsal::new).transpose()?;
    let root = match &rehearsal {
        // Opening makes the directory.
        Some(rehearsal) if !global.store_root().exists() => Root::open(&rehearsal.global(global))?,
        _ => Root::open(global)?,
    };
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let (source, images) = runtime.block_on(args.image.resolve(&root))?;
    let (store, artifacts) = match &rehearsal {
        Some(rehearsal) => (rehearsal.store()?, &rehearsal.artifacts),
        None => (root.store_for(&source)?, &root.artifacts),
    };
    let stores = root.stores()?;
    let progress = Progress::new(args.quiet || args.json);
    let heard = made::Heard::default();
    let tell = |event: Event<'_>| {
        heard.hear(&event);
        told::tell(event, &progress);
    };
    let mut packs = Vec::new();
    for image in &images {
        let plan = heard.plan(image, known.plan_for(image, runtime.handle(), &tell)?);
        let advised_whole = args.advise && advised_beside_pack(&known, image, runtime.handle(), &tell)?;
        let purpose = purpose.clone();
        let settings = PackSettings { plan, budget: args.budget, purpose, advised_whole, optional: false };
        let (index, fine) = (newest_index(&root, image)?, newest_fine_index(&root, image)?);
        let place = Destination {
            store: &store,
            beside: &stores,
            artifacts,
            name: &image.reference,
            runtime: runtime.handle(),
        };
        let in_parts = index.as_ref().map(|index| InParts {
            index,
            fine_tables: fine_tables(fine.iter().flat_map(|fine| &fine.layers)),
        });
        let made = make(image, &image.manifest, in_parts, &settings, place, &tell)?;
        packs.push((image.manifest.digest, made.descriptor.digest));
    }
    keep_packs(&store, source.name(), &purpose, &packs)?;
    let built = heard.take();
    if args.json {
        let made::Built { plans, packs, .. } = built;
        out!("{}", json::pretty(&Made { image: source.name(), plans, packs, dry_run: args.dry_run })?);
    } else if !args.quiet {
        built.sum_up(args.dry_run);
    } else {
        for (_, pack) in &packs {
            out!("{pack}");
        }
    }
    Ok(())
}

/// The newest index of an image that is recorded and there.
fn newest_index(root: &Root, image: &Image) -> Result<Option<SociIndex>> {
    let newest = root.newest(ArtifactKind::SociIndex, &image.manifest.digest)?;
    newest.map(|record| Ok(SociIndex::parse(root.read(&record.digest)?)?)).transpose()
}

/// The manifest of the newest fine index of an image that is recorded and there.
fn newest_fine_index(root: &Root, image: &Image) -> Result<Option<Manifest>> {
    let newest = root.newest(ArtifactKind::FineIndex, &image.manifest.digest)?;
    newest
        .map(|record| Ok(Manifest::parse(root.read(&record.digest)?, media_type::OCI_MANIFEST)?))
        .transpose()
}
