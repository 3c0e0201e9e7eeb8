//! `soci index list`: newest first.

use anyhow::{Result, bail};
use jiff::Timestamp;
use soci_core::index::IndexVersion;

use crate::{
    cli::Global,
    output::{duration, table},
    root::Root,
    sources::{self, PlatformFlags},
};

/// List the SOCI indexes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those of this image: as it was named when they were created, or as containerd names it.
    #[arg(long, value_name = "IMAGE")]
    r#ref: Option<String>,
    /// Only those of this platform, os/arch[/variant]; may be repeated.
    #[arg(long = "platform", short = 'p', value_name = "PLATFORM", value_delimiter = ',')]
    platforms: Vec<String>,
    /// Digests only.
    #[arg(long, short = 'q')]
    quiet: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let root = Root::open(global)?;
    let platforms = PlatformFlags { all_platforms: false, platforms: args.platforms.clone() }.named()?;
    let mut indexes = root.indexes()?;
    if let Some(name) = &args.r#ref {
        indexes = sources::indexes_of(name, &root)?;
        for platform in platforms.iter().map(ToString::to_string) {
            if !indexes.iter().any(|index| index.platform.as_ref() == Some(&platform)) {
                bail!("image manifest for platform {platform}: not found");
            }
        }
    }
    if !platforms.is_empty() {
        let wanted: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        indexes.retain(|index| index.platform.as_ref().is_some_and(|platform| wanted.contains(platform)));
    }
    if args.quiet {
        for index in &indexes {
            println!("{}", index.digest);
        }
        return Ok(());
    }
    let heading = ["DIGEST", "SIZE", "IMAGE REF", "PLATFORM", "MEDIA TYPE", "MANIFEST VERSION", "CREATED"];
    let mut rows = vec![heading.map(str::to_owned)];
    let names = sources::names_in_containerd(&root)?;
    for index in indexes {
        let version = index.artifact_type.as_deref().and_then(IndexVersion::of);
        let known = index.image_digest.and_then(|digest| names.get(&digest)).cloned();
        for name in known.unwrap_or_else(|| vec![index.image_ref.clone().unwrap_or_default()]) {
            rows.push([
                index.digest.to_string(),
                index.size.to_string(),
                name,
                index.platform.clone().unwrap_or_default(),
                index.media_type.clone(),
                version.map_or_else(String::new, |version| version.to_string()),
                age(index.created_at),
            ]);
        }
    }
    print!("{}", table::render(&rows));
    Ok(())
}

/// `<time> ago`, `n/a` for times in the future.
pub(crate) fn age(created: Timestamp) -> String {
    let age = Timestamp::now().duration_since(created);
    age.try_into().map_or_else(|_| "n/a".to_owned(), |age| format!("{} ago", duration::seconds(age)))
}
