//! `soci push`: bring the SOCI index of an image, and what else lies beside it, to its registry, so that nodes find it.
//!
//! Blobs go first, the manifest last: a registry never has an index that names what is not there. A registry without
//! referrers API gets the referrers tag. Messages are upstream's.

use anyhow::{Context, Result, bail};
use soci_core::{
    digest::Digest,
    image::{Descriptor, ImageError, ImageSource},
    index::{EMPTY_CONFIG, IndexVersion, SociIndex},
    media_type,
    registry::{Reference, Referrer, RegistryError, Repository},
    store::{Artifact, ArtifactKind},
};
use tokio::runtime::Runtime;

use super::push_companions::{Parcel, has, hinted, push_companions, push_parcel};
use super::push_image::push_image;
use super::pushed::{Pushed, tell};
use crate::{
    global::Global,
    help::heading::OUTPUT,
    hint::Hinted,
    output::progress::Progress,
    root::Root,
    sources::{self, PlatformFlags, RegistryFlags},
    usage,
};

/// Push the SOCI index of an image to its registry, with its fine indexes and packs if there are.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image's name in the registry.
    reference: Option<String>,
    #[command(flatten)]
    platforms: PlatformFlags,
    #[command(flatten)]
    registry: RegistryFlags,
    /// Push this image under the name first: oci:DIR[:TAG] or oci-archive:FILE[:TAG].
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// What to do when the registry has an index for the image: warn (and push), skip or allow.
    #[arg(long, value_name = "CHOICE", default_value = "warn")]
    existing_index: String,
    /// Push this many blobs at the same time. 0 means 3.
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_concurrent_uploads: u32,
    /// Print only the digest of the index.
    #[arg(long, short = 'q', help_heading = OUTPUT)]
    quiet: bool,
    /// Print what the registry has now as JSON; no progress.
    #[arg(long, help_heading = OUTPUT, conflicts_with = "quiet")]
    json: bool,
    /// Taken and not looked at: where layers are unpacked is of no concern here.
    #[arg(long, value_name = "NAME", hide = true)]
    snapshotter: Option<String>,
}

impl Args {
    /// What was made of an image, without a question about what is there; or this image on disk.
    pub(super) fn of(reference: &str, image: Option<String>, registry: RegistryFlags) -> Result<Self> {
        let args = usage::args(&[reference, "--json", "--existing-index", "allow"])?;
        Ok(Self { registry, image, ..args })
    }
}

/// Pushes one index for each platform.
pub(crate) fn run(args: Args, global: &Global) -> Result<()> {
    let (json, quiet) = (args.json, args.quiet);
    let name = args.reference.clone().unwrap_or_default();
    let pushed = bring(args, global)?;
    if quiet {
        pushed.iter().filter_map(Pushed::index).for_each(|index| out!("{index}"));
    }
    tell(json, &name, &pushed)
}

/// Pushes, and gives what the registry has now.
pub(super) fn bring(args: Args, global: &Global) -> Result<Vec<Pushed>> {
    let Some(name) = args.reference.clone().filter(|name| !name.is_empty()) else {
        bail!("please provide an image reference to push");
    };
    if !["warn", "skip", "allow"].contains(&args.existing_index.as_str()) {
        let value = &args.existing_index;
        bail!("unexpected value for flag existing-index: {value}, expected types [warn skip allow]");
    }
    let plain = name.strip_prefix("docker://").unwrap_or(&name);
    let reference: Reference =
        plain.parse().map_err(|source| ImageError::Reference { text: name.clone(), source })?;
    let root = Root::open(global)?;
    Runtime::new().context("start the runtime")?.block_on(push(args, &name, &reference, &root, global.debug))
}

async fn push(
    mut args: Args,
    name: &str,
    reference: &Reference,
    root: &Root,
    debug: bool,
) -> Result<Vec<Pushed>> {
    args.registry.http_dump |= debug;
    let registry = args.registry.registry(&reference.whole())?;
    let repository = registry.repository(reference);
    let uploads = match args.max_concurrent_uploads {
        0 => 3,
        n => n as usize,
    };
    let say = Progress::new(args.quiet || args.json);
    let mut pushed = Vec::new();
    let source = match &args.image {
        Some(image) => {
            let source = ImageSource::parse(image, &registry)?;
            let has_indexes = push_image(&source, &repository, reference, uploads, &say).await?;
            let whole = source.whole().await?;
            pushed.extend(whole.manifests.iter().map(|one| Pushed::new(one.digest, "image manifest")));
            pushed.extend(whole.index.iter().map(|one| Pushed::new(one.digest, "image index")));
            if has_indexes {
                return Ok(pushed);
            }
            source
        }
        None => sources::find(name, root, &args.registry).await?,
    };
    let indexes = root.indexes()?;
    let mut v2_seen = false;
    for platform in args.platforms.of(&source).await? {
        let image = args.platforms.image(&source, &platform).await?;
        let manifest = image.manifest.digest;
        let of_image = |version: IndexVersion| {
            let of = move |index: &&Artifact| {
                index.oci_digest == manifest && index.artifact_type.as_deref() == Some(version.media_type())
            };
            // A record may outlive its blob, which containerd collects with the image.
            let here = |index: &&Artifact| matches!(root.store_of(&index.digest), Ok(Some(_)));
            indexes.iter().filter(of).find(here)
        };
        let within = image.manifest.annotations.contains_key(media_type::INDEX_DIGEST);
        v2_seen |= within || of_image(IndexVersion::V2).is_some();
        if v2_seen {
            warn(
                &args,
                "Skipping SOCI index manifest v2. You should push the whole image with higher level tools like finch or nerdctl.",
            );
        }
        let Some(index) = of_image(IndexVersion::V1) else {
            let message =
                format!("could not find any soci index manifest v1 to push for platform {platform}");
            let hint = if v2_seen {
                "an index of version 2 is part of its image: push the image (soci push --image oci:DIR NAME, nerdctl push)"
            } else {
                "create it first: soci create IMAGE"
            };
            return Err(Hinted::new(message, hint).into());
        };
        if args.existing_index != "allow" && !go_on(&args, &repository, manifest, &say).await? {
            continue;
        }
        let mut unlisted = Vec::new();
        // The index last: by it a node takes the image for one that is served in parts, and what goes with it is there then.
        let refused = push_companions(&repository, root, &manifest, uploads, &mut unlisted, &say).await?;
        let sent = push_index(&repository, root, index, uploads, &mut unlisted, &say).await;
        sent.map_err(|error| hinted(error.context("error pushing graph to remote")))?;
        if !unlisted.is_empty() {
            let listed = repository.list_referrers(&manifest, &unlisted).await;
            listed.context("error pushing graph to remote")?;
        }
        refused.into_result()?;
        warn_of_others(&repository, manifest, index.digest).await;
        pushed.push(Pushed::of_index(index.digest));
        let fine = root.newest(ArtifactKind::FineIndex, &manifest)?;
        pushed.extend(fine.map(|record| Pushed::new(record.digest, "fine index")));
        let packs = root.list(ArtifactKind::Pack)?.into_iter().filter(|record| record.oci_digest == manifest);
        pushed.extend(packs.map(|record| Pushed::new(record.digest, "pack")));
    }
    Ok(pushed)
}

/// A warning where upstream's tool puts it, unless standard output is for a program.
fn warn(args: &Args, text: &str) {
    if args.quiet || args.json {
        say!("warning: {text}");
    } else {
        out!("[WARN] {text}");
    }
}

/// Says so when nodes will not take the index that was pushed.
async fn warn_of_others(repository: &Repository, manifest: Digest, index: Digest) {
    // A registry that does not say has taken the index all the same.
    let Ok(listed) = repository.referrers(&manifest, Some(IndexVersion::V1.media_type())).await else {
        return;
    };
    if let Some(first) = listed.first().filter(|first| first.digest != index) {
        say!(
            "warning: the registry lists SOCI index {} before {index}, and nodes take the first; delete it there to have this one used",
            first.digest
        );
    }
}

/// Looks for indexes that are there already. `false`: leave it at that.
async fn go_on(args: &Args, repository: &Repository, manifest: Digest, say: &Progress) -> Result<bool> {
    say.line("checking if a soci index already exists in remote repository...");
    let referrers = repository.referrers(&manifest, Some(IndexVersion::V1.media_type())).await;
    let referrers = match referrers {
        Err(error @ (RegistryError::Denied { .. } | RegistryError::Unavailable { .. }))
            if args.existing_index == "warn" =>
        {
            say!("note: the registry does not say whether it has an index: {error}");
            return Ok(true);
        }
        found => found.context("failed to fetch list of referrers")?,
    };
    let message = match referrers.as_slice() {
        [] => return Ok(true),
        [one] => format!("soci index found in remote repository with digest: {}", one.digest),
        _ => "multiple soci indices found in remote repository".to_owned(),
    };
    if args.existing_index == "skip" {
        say.line(&format!("{message}: skipping pushing artifacts for image manifest: {manifest}"));
        return Ok(false);
    }
    warn(args, &format!("{message}: pushing index anyway"));
    Ok(true)
}

async fn push_index(
    repository: &Repository,
    root: &Root,
    index: &Artifact,
    uploads: usize,
    unlisted: &mut Vec<Referrer>,
    say: &Progress,
) -> Result<()> {
    let digest = index.digest;
    let raw = root.read(&digest)?;
    let parsed = SociIndex::parse(raw.clone())?;
    let subject = parsed.subject.as_ref().context("a version 1 index has a subject")?.digest;
    say.line(&format!("pushing soci index with digest: {digest}"));
    let artifact_type = IndexVersion::V1.media_type();
    let empty = Descriptor::new(artifact_type, Digest::of(EMPTY_CONFIG), EMPTY_CONFIG.len() as u64);
    let blobs = std::iter::once(empty.embed(EMPTY_CONFIG)).chain(parsed.layers).collect();
    let mut descriptor = Descriptor::new(media_type::OCI_MANIFEST, digest, raw.len() as u64);
    descriptor.artifact_type = Some(artifact_type.to_owned());
    descriptor.annotations = parsed.annotations;
    let parcel = Parcel { referrer: Referrer { descriptor, raw }, blobs };
    push_parcel(repository, root, parcel, uploads, unlisted, say).await?;
    if !has(repository, &subject).await? {
        say!("note: the registry does not have the image manifest {subject}; push the image as well");
    }
    Ok(())
}
