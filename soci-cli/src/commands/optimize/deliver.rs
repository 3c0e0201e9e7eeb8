//! What is made of an image and a profile, and where it is brought. Holds no state.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use soci_core::digest::Digest;
use soci_core::image::Image;

use super::Args;
use super::target::{Target, plain};
use crate::commands::build_args::BuildArgs;
use crate::commands::made::Built;
use crate::commands::pack_args::PackArgs;
use crate::commands::pushed::Pushed;
use crate::commands::stop::Stop;
use crate::commands::{convert, create, push};
use crate::global::Global;
use crate::hint::Hinted;
use crate::output::scratch::Scratch;
use crate::sources::ImageArgs;

/// What was made, and what a registry has of it.
pub(super) struct Made {
    /// The image manifest that it was made of.
    pub(super) of: Digest,
    /// The SOCI index beside it, or the image index of the new image.
    pub(super) digest: Digest,
    pub(super) built: Built,
    pub(super) pushed: Vec<Pushed>,
}

/// Makes it and brings it where it is to be.
pub(super) fn deliver(
    args: &Args,
    global: &Global,
    target: &Target,
    image: &Image,
    profile: &Path,
    stop: &Stop,
) -> Result<Made> {
    let pack = PackArgs::named(args.name.clone(), args.pack_budget);
    let build = BuildArgs::of_profile(profile.to_owned(), args.globs.clone(), args.prefetch_budget, pack)?;
    let (flags, recorded) = (args.registry.flags(), image.manifest.digest);
    let (name, source, global) = (args.image.clone(), target.source(&args.image), global.clone());
    let target = target.clone();
    stop.work(move || match target {
        Target::Store | Target::Beside => {
            let mut created = create::create(&ImageArgs::of(source, flags.clone()), &build, &global)?;
            let index = created.indexes.pop().context("no index was made")?;
            unchanged(recorded, index.manifest)?;
            let pushed = match target {
                Target::Beside => push::bring(push::Args::of(plain(&name), None, flags)?, &global)?,
                _ => Vec::new(),
            };
            Ok(Made { of: recorded, digest: index.digest, built: index.built, pushed })
        }
        Target::Layout(dir) => {
            let (digest, built) = converted(source, &dir, build, flags, recorded, &global)?;
            Ok(Made { of: recorded, digest, built, pushed: Vec::new() })
        }
        Target::Image(to) => {
            let scratch =
                Scratch::new_in(&place_for(&global)).context("cannot make a temporary directory")?;
            let dir = scratch.path().join("image");
            let (digest, built) = converted(source, &dir, build, flags.clone(), recorded, &global)?;
            let image = Some(format!("oci:{}", dir.display()));
            let pushed = push::bring(push::Args::of(&to, image, flags)?, &global)?;
            Ok(Made { of: recorded, digest, built, pushed })
        }
    })
}

/// Makes the new image in a directory.
fn converted(
    source: String,
    dir: &Path,
    build: BuildArgs,
    flags: crate::sources::RegistryFlags,
    recorded: Digest,
    global: &Global,
) -> Result<(Digest, Built)> {
    let (digest, built) = convert::converted(&convert::Args::to_layout(source, dir, build, flags)?, global)?;
    for plan in &built.plans {
        unchanged(recorded, plan.manifest)?;
    }
    Ok((digest, built))
}

/// Where a whole image can lie for a while: beside our other results, which are of its size, if they have a place.
fn place_for(global: &Global) -> PathBuf {
    let root = global.store_root();
    if root.is_dir() { root.to_owned() } else { std::env::temp_dir() }
}

/// A name can be given to another image while this one is recorded.
fn unchanged(recorded: Digest, made: Digest) -> Result<()> {
    if recorded == made {
        return Ok(());
    }
    let message = format!("the image was {recorded} when it was looked up, and is {made} now");
    Err(Hinted::new(message, "record again, or name the image by its digest").into())
}
