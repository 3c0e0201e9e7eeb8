//! `soci index list`: what is recorded here, newest first, or what a registry has.

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde::Serialize;
use soci_core::{digest::Digest, index::IndexVersion, store::Artifact};

use super::remote;
use crate::{
    global::Global,
    output::{duration, json, stream, table},
    root::Root,
    sources::{self, PlatformFlags, RegistryFlags},
};

const HEADING: [&str; 7] =
    ["DIGEST", "SIZE", "IMAGE REF", "PLATFORM", "MEDIA TYPE", "MANIFEST VERSION", "CREATED"];

/// List the SOCI indexes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those of this image: as it was named when they were created, or as containerd names it.
    #[arg(long, value_name = "IMAGE")]
    r#ref: Option<String>,
    /// Those that the registry has for this image, in place of those recorded here.
    #[arg(long, value_name = "IMAGE", conflicts_with = "ref")]
    remote: Option<String>,
    /// Only those of this platform, os/arch[/variant]; may be repeated.
    #[arg(long = "platform", short = 'p', value_name = "PLATFORM", value_delimiter = ',')]
    platforms: Vec<String>,
    /// Digests only.
    #[arg(long, short = 'q')]
    quiet: bool,
    /// As JSON: an array with an object for each line of the table.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
    #[command(flatten, next_help_heading = "With --remote")]
    registry: RegistryFlags,
}

/// An index under one name of its image. The keys of its JSON are an interface.
#[derive(Serialize)]
struct Row {
    digest: Digest,
    /// Bytes of the manifest.
    size: u64,
    /// Empty: no name is known.
    image: String,
    platform: String,
    media_type: String,
    version: Option<String>,
    /// `None`: a registry does not say.
    created_at: Option<String>,
    #[serde(skip)]
    age: String,
}

impl Row {
    fn cells(&self) -> [String; 7] {
        [
            self.digest.to_string(),
            self.size.to_string(),
            self.image.clone(),
            self.platform.clone(),
            self.media_type.clone(),
            self.version.clone().unwrap_or_default(),
            self.age.clone(),
        ]
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let platforms = PlatformFlags { all_platforms: false, platforms: args.platforms.clone() };
    let rows = match &args.remote {
        Some(name) => in_registry(name, args, &platforms)?,
        None => recorded(args, &platforms, &Root::open(global)?)?,
    };
    if args.quiet {
        let mut last = None;
        for Row { digest, .. } in &rows {
            // One index has a row for each name of its image.
            if last.replace(digest) != Some(digest) {
                out!("{digest}");
            }
        }
    } else if args.json {
        out!("{}", json::pretty(&rows)?);
    } else {
        let rows = rows.iter().map(Row::cells);
        let rows: Vec<_> = std::iter::once(HEADING.map(str::to_owned)).chain(rows).collect();
        stream::results(&table::render(&rows));
    }
    Ok(())
}

fn in_registry(name: &str, args: &Args, platforms: &PlatformFlags) -> Result<Vec<Row>> {
    let row = |found: remote::Remote| Row {
        digest: found.descriptor.digest,
        size: found.descriptor.size,
        image: name.to_owned(),
        platform: found.platform.to_string(),
        media_type: found.descriptor.media_type,
        version: Some(found.version.to_string()),
        created_at: None,
        age: "n/a".to_owned(),
    };
    Ok(remote::list(name, &args.registry, platforms)?.into_iter().map(row).collect())
}

fn recorded(args: &Args, platforms: &PlatformFlags, root: &Root) -> Result<Vec<Row>> {
    let wanted: Vec<String> = platforms.named()?.iter().map(ToString::to_string).collect();
    let mut indexes = match &args.r#ref {
        Some(name) => sources::indexes_of(name, root)?,
        None => root.indexes()?,
    };
    let is_for = |index: &Artifact, platform: &String| index.platform.as_ref() == Some(platform);
    if args.r#ref.is_some()
        && let Some(platform) =
            wanted.iter().find(|wanted| !indexes.iter().any(|index| is_for(index, wanted)))
    {
        bail!("image manifest for platform {platform}: not found");
    }
    if !wanted.is_empty() {
        indexes.retain(|index| wanted.iter().any(|platform| is_for(index, platform)));
    }
    let names = sources::names_in_containerd(root)?;
    let mut rows = Vec::new();
    for index in indexes {
        let version = index.artifact_type.as_deref().and_then(IndexVersion::of);
        let known = index.image_digest.and_then(|digest| names.get(&digest)).cloned();
        for name in known.unwrap_or_else(|| vec![index.image_ref.clone().unwrap_or_default()]) {
            rows.push(Row {
                digest: index.digest,
                size: index.size,
                image: name,
                platform: index.platform.clone().unwrap_or_default(),
                media_type: index.media_type.clone(),
                version: version.map(|version| version.to_string()),
                created_at: Some(index.created_at.to_string()),
                age: age(index.created_at),
            });
        }
    }
    Ok(rows)
}

/// `<time> ago`, `n/a` for times in the future.
pub(crate) fn age(created: Timestamp) -> String {
    let age = Timestamp::now().duration_since(created);
    age.try_into().map_or_else(|_| "n/a".to_owned(), |age| format!("{} ago", duration::seconds(age)))
}
