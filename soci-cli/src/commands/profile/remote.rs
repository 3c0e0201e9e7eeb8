//! Profiles at a registry: each beside the image that it is of, found by the name of its workload. Holds no state.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use planner::profile::Profile;
use planner::report::words::printable;
use serde::Serialize;
use soci_core::digest::Digest;
use soci_core::image::{Descriptor, Manifest, Platform};
use soci_core::index::{Companion, CompanionKind, EMPTY_CONFIG};
use soci_core::media_type::{PACK_WORKLOAD, PROFILE, PROFILE_ZSTD};
use soci_core::registry::{Content, Referrer};

use super::Output;
use crate::commands::beside::{self, Beside, Found};
use crate::commands::evidence::read_profile;
use crate::commands::pushed::{self, Pushed};
use crate::global::Global;
use crate::help::heading::OUTPUT;
use crate::hint::Hinted;
use crate::output::{json, progress::Progress, stream, table};
use crate::sources::RegistryFlags;

/// Bytes of a stored profile that are fetched, at most.
const MAX_STORED: u64 = 64 << 20;

/// Push a profile to the registry of its image, beside the image.
#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    /// The profile.
    #[arg(value_name = "FILE")]
    profile: PathBuf,
    /// The image's name in the registry.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The platform of the image, os/arch[/variant]; the default is this machine's.
    #[arg(long, short = 'p', value_name = "PLATFORM")]
    platform: Option<String>,
    #[command(flatten)]
    registry: RegistryFlags,
    /// Print only the digest of the profile's manifest.
    #[arg(long, short = 'q', help_heading = OUTPUT)]
    quiet: bool,
    /// Print what the registry has now as JSON; no progress.
    #[arg(long, help_heading = OUTPUT, conflicts_with = "quiet")]
    json: bool,
}

/// Fetch a profile of an image from its registry.
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    /// The image's name in the registry. IMAGE@DIGEST with the digest of a profile is that profile.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The workload; needed when the image has profiles of several and none without a name.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The platform of the image, os/arch[/variant]; the default is this machine's.
    #[arg(long, short = 'p', value_name = "PLATFORM")]
    platform: Option<String>,
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    output: Output,
}

/// List the profiles that a registry has for an image, newest first where it lists them so.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// The image's name in the registry.
    #[arg(long, value_name = "IMAGE", required = true)]
    remote: String,
    /// As JSON: an array with an object for each line of the table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryFlags,
}

/// Remove profiles from the registry of their image.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// The image's name in the registry.
    #[arg(long, value_name = "IMAGE", required = true)]
    remote: String,
    /// Digests of the profiles, as `soci profile list` shows them.
    #[arg(required = true, value_name = "DIGEST")]
    digests: Vec<Digest>,
    #[command(flatten)]
    registry: RegistryFlags,
}

/// The keys of its JSON are an interface.
#[derive(Serialize)]
struct Row {
    digest: Digest,
    /// Empty: it is for no workload in particular.
    workload: String,
    /// Bytes, as stored.
    size: u64,
    platform: String,
    /// The image manifest.
    subject: Digest,
}

pub(crate) fn push(mut args: PushArgs, global: &Global) -> Result<()> {
    args.registry.http_dump |= global.debug;
    let profile = read_profile(&args.profile)?;
    let platform = super::create::platform(args.platform.as_deref())?;
    beside::within(&args.image, &args.registry, async |beside| {
        let subject = beside.image(&platform)?;
        if let Some(of) = profile.image.manifest.filter(|of| *of != subject) {
            let message = format!("the profile is of image manifest {of}, and {} is {subject}", args.image);
            let hint = format!("soci profile rebase {} {} -o FILE", args.profile.display(), args.image);
            return Err(Hinted::new(message, hint).into());
        }
        let digest = send(&beside, &profile, &subject).await.context("cannot push the profile")?;
        let say = Progress::new(args.quiet || args.json);
        say.line(&format!("pushed profile {digest} of {}", args.image));
        if args.quiet {
            out!("{digest}");
        }
        pushed::tell(args.json, &args.image, &[Pushed::new(digest, "profile")])
    })
}

/// Blobs first; the manifest appears in the list last.
async fn send(beside: &Beside, profile: &Profile, subject: &Digest) -> Result<Digest> {
    let repository = beside.repository();
    let document = Bytes::from(profile.to_bytes());
    let image = beside.read(subject).await?.descriptor();
    let layer = Descriptor::new(Profile::media_type(&document), Digest::of(&document), document.len() as u64);
    let named = (!profile.workload.is_empty()).then(|| (PACK_WORKLOAD.to_owned(), profile.workload.clone()));
    let companion = Companion {
        kind: CompanionKind::Profile,
        subject: image,
        layers: vec![layer.clone()],
        annotations: named.into_iter().collect(),
    };
    let empty = Bytes::from_static(EMPTY_CONFIG);
    repository.push_blob(&Digest::of(&empty), Content::Bytes(empty)).await?;
    repository.push_blob(&layer.digest, Content::Bytes(document)).await?;
    let referrer = Referrer { descriptor: companion.descriptor(), raw: companion.encode().into() };
    if !repository.push_referrer(&referrer).await? {
        repository.list_referrers(subject, std::slice::from_ref(&referrer)).await?;
    }
    Ok(referrer.descriptor.digest)
}

pub(crate) fn pull(args: &PullArgs) -> Result<()> {
    let profile = if let Some((image, digest)) = beside::named(&args.image) {
        fetch(image, &digest, &args.registry)
    } else {
        let platform = super::create::platform(args.platform.as_deref())?;
        beside::within(&args.image, &args.registry, async |beside| {
            let found = choose(&beside, args, &platform).await?;
            document(&beside, &found).await
        })
    };
    args.output.write(&profile?)
}

/// A profile in a registry, by the digest of its manifest.
pub(crate) fn fetch(image: &str, digest: &Digest, registry: &RegistryFlags) -> Result<Profile> {
    beside::within(image, registry, async |beside| {
        let found = beside.companion(digest, CompanionKind::Profile).await?;
        document(&beside, &found).await
    })
}

/// The first that the registry lists for the workload.
async fn choose(beside: &Beside, args: &PullArgs, platform: &Platform) -> Result<Found> {
    let subject = beside.image(platform)?;
    let mut found = beside.companions(CompanionKind::Profile).await?;
    found.retain(|found| found.subject == subject);
    let workload = |found: &Found| found.manifest.annotations.get(PACK_WORKLOAD).cloned().unwrap_or_default();
    let mut names: Vec<String> = found.iter().map(workload).collect();
    let wanted = args.name.clone().unwrap_or_default();
    let at = names.iter().position(|name| *name == wanted);
    names.sort_unstable();
    names.dedup();
    let only = (args.name.is_none() && names.len() == 1).then_some(0);
    if let Some(at) = at.or(only) {
        return Ok(found.swap_remove(at));
    }
    if names.is_empty() {
        bail!("the registry has no profile of {}", args.image);
    }
    let names: Vec<_> = names.iter().map(|name| printable(name.as_bytes())).collect();
    let message =
        format!("the registry has no profile of {} for {:?}", args.image, printable(wanted.as_bytes()));
    Err(Hinted::new(message, format!("it has those of: {}", names.join(", "))).into())
}

async fn document(beside: &Beside, found: &Found) -> Result<Profile> {
    let blob =
        blob(&found.manifest).with_context(|| format!("{} is not a profile", found.manifest.digest))?;
    let bytes = match blob.embedded() {
        Some(bytes) => bytes.into(),
        None => beside.repository().blob(&blob.digest, blob.size.min(MAX_STORED)).await?,
    };
    Profile::read(&bytes).with_context(|| format!("profile {}", blob.digest))
}

fn blob(manifest: &Manifest) -> Option<&Descriptor> {
    let is_document = |layer: &&Descriptor| [PROFILE, PROFILE_ZSTD].contains(&&*layer.media_type);
    manifest.layers.iter().find(is_document)
}

pub(crate) fn list(args: &ListArgs) -> Result<()> {
    let found = beside::within(&args.remote, &args.registry, async |beside| {
        beside.companions(CompanionKind::Profile).await
    })?;
    let row = |found: Found| Row {
        digest: found.manifest.digest,
        workload: found.manifest.annotations.get(PACK_WORKLOAD).cloned().unwrap_or_default(),
        size: blob(&found.manifest).map_or(0, |blob| blob.size),
        platform: found.platform.to_string(),
        subject: found.subject,
    };
    let rows: Vec<Row> = found.into_iter().map(row).collect();
    if args.json {
        out!("{}", json::pretty(&rows)?);
        return Ok(());
    }
    let mut lines = vec![["DIGEST", "WORKLOAD", "SIZE", "PLATFORM"].map(str::to_owned)];
    lines.extend(rows.into_iter().map(|row| {
        [row.digest.to_string(), printable(row.workload.as_bytes()), row.size.to_string(), row.platform]
    }));
    stream::results(&table::render(&lines));
    Ok(())
}

pub(crate) fn rm(args: &RmArgs) -> Result<()> {
    beside::within(&args.remote, &args.registry, async |beside| {
        for digest in &args.digests {
            beside.remove(digest, &[PROFILE]).await?;
        }
        Ok(())
    })
}
