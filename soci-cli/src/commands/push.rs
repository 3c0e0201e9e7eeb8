//! `soci push`: bring the SOCI index of an image, and what else lies beside it, to its registry, so that nodes find it.
//!
//! Blobs go first, the manifest last: a registry never has an index that names what is not there. A registry without
//! referrers API gets the referrers tag. Messages are upstream's.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use soci_core::{
    digest::Digest,
    image::{Descriptor, ImageError, ImageSource},
    index::{EMPTY_CONFIG, IndexVersion, SociIndex},
    media_type,
    registry::{Content, Reference, RegistryError, Repository},
    store::Artifact,
};
use tokio::{runtime::Runtime, sync::Semaphore, task::JoinSet};

use super::{push_companions::push_companions, push_image::push_image};
use crate::{
    cli::Global,
    error::Hinted,
    output::progress::{Progress, short},
    root::Root,
    sources::{self, PlatformFlags, RegistryFlags},
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
    /// Blobs pushed at the same time; 0: 3.
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_concurrent_uploads: u32,
    /// Print only the digest of the index.
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Taken and not looked at: where layers are unpacked is of no concern here.
    #[arg(long, value_name = "NAME", hide = true)]
    snapshotter: Option<String>,
}

/// Pushes one index for each platform.
pub(crate) fn run(args: Args, global: &Global) -> Result<()> {
    let Some(name) = args.reference.clone().filter(|name| !name.is_empty()) else {
        bail!("please provide an image reference to push");
    };
    if !["warn", "skip", "allow"].contains(&args.existing_index.as_str()) {
        let value = &args.existing_index;
        bail!("unexpected value for flag existing-index: {value}, expected types [warn skip allow]");
    }
    let reference: Reference =
        name.parse().map_err(|source| ImageError::Reference { text: name.clone(), source })?;
    let root = Root::open(global)?;
    Runtime::new().context("start the runtime")?.block_on(push(args, &name, &reference, &root, global.debug))
}

async fn push(mut args: Args, name: &str, reference: &Reference, root: &Root, debug: bool) -> Result<()> {
    args.registry.http_dump |= debug;
    let registry = args.registry.registry(&reference.whole())?;
    let repository = registry.repository(reference);
    let uploads = match args.max_concurrent_uploads {
        0 => 3,
        n => n as usize,
    };
    let say = Progress::new(args.quiet);
    let source = match &args.image {
        Some(image) => {
            let source = ImageSource::parse(image, &registry)?;
            if push_image(&source, &repository, reference, uploads, &say).await? {
                return Ok(());
            }
            source
        }
        None => sources::find(name, root, &args.registry).await?,
    };
    let indexes = root.indexes()?;
    let mut v2_seen = false;
    for platform in args.platforms.of(&source).await? {
        let manifest = source.resolve(&platform).await?.manifest.digest;
        let of_image = |version: IndexVersion| {
            let of = move |index: &&Artifact| {
                index.oci_digest == manifest && index.artifact_type.as_deref() == Some(version.media_type())
            };
            indexes.iter().find(of)
        };
        v2_seen |= of_image(IndexVersion::V2).is_some();
        if v2_seen {
            out!(
                "[WARN] Skippping SOCI index manifest v2. You should push the whole image with higher level tools like finch or nerdctl."
            );
        }
        let Some(index) = of_image(IndexVersion::V1) else {
            let message =
                format!("could not find any soci index manifest v1 to push for platform {platform}");
            return Err(Hinted::new(message, "create it first: soci create IMAGE").into());
        };
        if args.existing_index != "allow" && !go_on(&args, &repository, manifest, &say).await? {
            continue;
        }
        push_index(&repository, root, index, uploads, &say).await?;
        push_companions(&repository, root, &manifest, uploads, &say).await?;
    }
    Ok(())
}

/// Looks for indexes that are there already. `false`: leave it at that.
async fn go_on(args: &Args, repository: &Repository, manifest: Digest, say: &Progress) -> Result<bool> {
    say.line("checking if a soci index already exists in remote repository...");
    let referrers = repository.referrers(&manifest, Some(IndexVersion::V1.media_type())).await;
    let message = match referrers.context("failed to fetch list of referrers")?.as_slice() {
        [] => return Ok(true),
        [one] => format!("soci index found in remote repository with digest: {}", one.digest),
        _ => "multiple soci indices found in remote repository".to_owned(),
    };
    if args.existing_index == "skip" {
        say.line(&format!("{message}: skipping pushing artifacts for image manifest: {manifest}"));
        return Ok(false);
    }
    out!("[WARN] {message}: pushing index anyway");
    Ok(true)
}

async fn push_index(
    repository: &Repository,
    root: &Root,
    index: &Artifact,
    uploads: usize,
    say: &Progress,
) -> Result<()> {
    let digest = index.digest;
    let raw = root.read(&digest)?;
    let parsed = SociIndex::parse(raw.clone())?;
    let subject = parsed.subject.as_ref().context("a version 1 index has a subject")?.digest;
    if say.is_quiet() {
        out!("{digest}");
    } else {
        out!("pushing soci index with digest: {digest}");
    }
    match repository.manifest(&digest.to_string()).await {
        Ok(_) => {
            say.line(&format!("skipped artifact with digest: {digest}"));
            return Ok(());
        }
        Err(RegistryError::NotFound { .. }) => {}
        Err(error) => return Err(error).context("error pushing graph to remote"),
    }
    let config =
        Descriptor::new(IndexVersion::V1.media_type(), Digest::of(EMPTY_CONFIG), EMPTY_CONFIG.len() as u64);
    let mut blobs = vec![(config.digest, Content::Bytes(EMPTY_CONFIG.into()))];
    let mut named = HashSet::from([config.digest]);
    for entry in &parsed.layers {
        if named.insert(entry.digest) {
            blobs.push((entry.digest, Content::Bytes(root.read(&entry.digest)?)));
        }
    }
    match repository.manifest(&subject.to_string()).await {
        Ok(_) => say.line(&format!("skipped artifact with digest: {subject}")),
        Err(RegistryError::NotFound { .. }) => {
            say!("note: the registry does not have the image manifest {subject}; push the image as well");
        }
        Err(error) => return Err(error).context("error pushing graph to remote"),
    }
    push_blobs(repository, blobs, uploads, say).await.context("error pushing graph to remote")?;
    say.line(&format!("pushing artifact with digest: {digest}"));
    let mut descriptor = Descriptor::new(media_type::OCI_MANIFEST, digest, raw.len() as u64);
    descriptor.artifact_type = Some(IndexVersion::V1.media_type().to_owned());
    descriptor.annotations = parsed.annotations;
    let pushed = repository.push_referrer(&subject, descriptor, &raw).await;
    pushed.context("error pushing graph to remote")?;
    say.line(&format!("successfully pushed artifact with digest: {digest}"));
    Ok(())
}

/// How often a bar of a push moves.
const TICK: Duration = Duration::from_millis(200);

/// Sends the blobs that the registry does not have.
pub(super) async fn push_blobs(
    repository: &Repository,
    blobs: Vec<(Digest, Content)>,
    uploads: usize,
    say: &Progress,
) -> Result<(), RegistryError> {
    let slots = Arc::new(Semaphore::new(uploads));
    let bar = say.bytes("push", blobs.iter().map(|(_, content)| content.size()).sum());
    let traffic = repository.traffic();
    let before = traffic.bytes_sent();
    let mut skipped = 0;
    let mut tasks = JoinSet::new();
    for (digest, content) in blobs {
        let (repository, slots) = (repository.clone(), Arc::clone(&slots));
        let (say, bar, size) = (say.clone(), bar.clone(), content.size());
        tasks.spawn(async move {
            let _slot = slots.acquire_owned().await;
            if repository.blob_exists(&digest).await? {
                say.line(&format!("skipped artifact with digest: {digest}"));
                return Ok(size);
            }
            say.line(&format!("pushing artifact with digest: {digest}"));
            bar.set_message(format!("push {}", short(&digest)));
            repository.push_blob(&digest, content).await?;
            say.line(&format!("successfully pushed artifact with digest: {digest}"));
            Ok(0)
        });
    }
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            outcome = tasks.join_next() => match outcome {
                None => break,
                Some(Ok(pushed)) => skipped += pushed?,
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            },
            _ = tick.tick() => bar.set_position(skipped + traffic.bytes_sent() - before),
        }
    }
    bar.finish_and_clear();
    Ok(())
}
