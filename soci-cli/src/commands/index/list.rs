//! `soci index list`: newest first.

use anyhow::{Result, bail};
use jiff::Timestamp;
use soci_core::{image::ImageError, index::IndexVersion};

use crate::{
    cli::Global,
    output::{duration, table},
    root::Root,
    sources::{PlatformFlags, full_name},
};

/// List the SOCI indexes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only those of this image, as it was named when they were created.
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
        let name = full_name(name);
        indexes.retain(|index| index.image_ref.as_ref() == Some(&name));
        if indexes.is_empty() {
            return Err(ImageError::NotFound(name).into());
        }
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
    rows.extend(indexes.into_iter().map(|index| {
        let version = index.artifact_type.as_deref().and_then(IndexVersion::of);
        [
            index.digest.to_string(),
            index.size.to_string(),
            index.image_ref.unwrap_or_default(),
            index.platform.unwrap_or_default(),
            index.media_type,
            version.map_or_else(String::new, |version| version.to_string()),
            age(index.created_at),
        ]
    }));
    print!("{}", table::render(&rows));
    Ok(())
}

/// `<time> ago`, `n/a` for times in the future.
pub(crate) fn age(created: Timestamp) -> String {
    let age = Timestamp::now().duration_since(created);
    age.try_into().map_or_else(|_| "n/a".to_owned(), |age| format!("{} ago", duration::seconds(age)))
}
