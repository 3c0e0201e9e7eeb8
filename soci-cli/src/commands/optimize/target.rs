//! Where the results go. A [`Target`] is what `--push`, `--to` and the image's name say together.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use soci_core::registry::{Reference, Repository};

use super::Args;
use crate::hint::Hinted;
use crate::sources::{self, full_name, is_local};

/// Where the results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The local store: nothing is pushed.
    Store,
    /// Beside the image, at its registry.
    Beside,
    /// A new image at a registry.
    Image(String),
    /// A new image in a directory, under the tag that the image has.
    Layout(PathBuf),
}

/// A name at a registry, and how it is spoken to.
pub(super) struct Place {
    pub(super) repository: Repository,
    pub(super) reference: Reference,
}

impl Target {
    /// What the flags say.
    ///
    /// # Errors
    /// When they fit neither each other nor the image.
    pub(super) fn of(args: &Args) -> Result<Self> {
        let on_disk = is_local(&args.image);
        let target = match &args.to {
            None if args.push && on_disk => {
                let message = format!("{} is on disk: there is no registry to push to", args.image);
                return Err(Hinted::new(message, "name the new image: --to REGISTRY/NAME:TAG").into());
            }
            None if args.push => Self::Beside,
            None if on_disk => Self::Layout(beside(&args.image)),
            None => Self::Store,
            Some(to) => Self::named(to, &args.image)?,
        };
        if args.image.starts_with("containerd://") && matches!(target, Self::Image(_) | Self::Layout(_)) {
            let message = format!(
                "{} is in containerd: --to makes new images of what a registry or a disk has",
                args.image
            );
            return Err(Hinted::new(message, "soci convert makes a new image in containerd").into());
        }
        if args.measure && (on_disk || !matches!(target, Self::Beside | Self::Image(_))) {
            let message = "--measure starts the image before and after: both have to be at a registry";
            return Err(Hinted::new(message, "give an image at a registry, and --push or --to").into());
        }
        Ok(target)
    }

    fn named(to: &str, image: &str) -> Result<Self> {
        if let Some(dir) = to.strip_prefix("oci:").filter(|dir| !dir.is_empty()) {
            return Ok(Self::Layout(dir.into()));
        }
        if to.contains(['/', ':']) {
            return sources::tagged(to).map(Self::Image);
        }
        if is_local(image) {
            let message = format!("{image} is on disk: {to} is a tag of no repository");
            return Err(Hinted::new(message, "--to REGISTRY/NAME:TAG, or --to oci:DIR").into());
        }
        let whole: Reference = full_name(image).parse().with_context(|| format!("image {image:?}"))?;
        let name = format!("{}/{}:{to}", whole.registry(), whole.repository());
        sources::tagged(&name).map(Self::Image)
    }

    /// The image's name for whoever reads it. A new image is made of what the registry has, not of what containerd has.
    pub(super) fn source(&self, image: &str) -> String {
        let bare = !is_local(image) && !image.contains("://");
        if bare && !matches!(self, Self::Store | Self::Beside) {
            format!("docker://{image}")
        } else {
            image.to_owned()
        }
    }

    /// The name under which a start finds what was made; none on disk.
    pub(super) fn started_as<'a>(&'a self, image: &'a str) -> Option<&'a str> {
        match self {
            Self::Store | Self::Beside => Some(plain(image)),
            Self::Image(name) => Some(name),
            Self::Layout(_) => None,
        }
    }

    /// The registry that has the results now, if one has.
    pub(super) fn pushed_to(&self, args: &Args) -> Result<Option<Place>> {
        let name = match self {
            Self::Beside => plain(&args.image),
            Self::Image(name) => name,
            Self::Store | Self::Layout(_) => return Ok(None),
        };
        let reference: Reference = name.parse().with_context(|| format!("image {name:?}"))?;
        let registry = args.registry.flags().registry(&reference.whole())?;
        Ok(Some(Place { repository: registry.repository(&reference), reference }))
    }
}

/// A name without the word that says where it is looked up.
pub(super) fn plain(image: &str) -> &str {
    image.split_once("://").map_or(image, |(_, name)| name)
}

/// `oci:DIR:TAG` -> `DIR-soci`, `oci-archive:a.tar` -> `a-soci`.
fn beside(image: &str) -> PathBuf {
    let (kind, rest) = image.split_once(':').unwrap_or(("", image));
    let path = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !path.is_empty() => path,
        _ => rest,
    };
    let path = Path::new(path.trim_end_matches('/'));
    let path = if kind == "oci-archive" { path.with_extension("") } else { path.to_owned() };
    let mut beside = path.into_os_string();
    beside.push("-soci");
    beside.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_go_beside_an_image_on_disk() {
        for (image, path) in [
            ("oci:app", "app-soci"),
            ("oci:/a/app/:v1", "/a/app-soci"),
            ("oci-archive:a/app.tar", "a/app-soci"),
            ("oci-archive:app.tar:v1", "app-soci"),
        ] {
            assert_eq!(beside(image), Path::new(path), "{image}");
        }
    }

    #[test]
    fn a_tag_is_one_of_the_images_repository() {
        let image = |name: &str| Target::Image(name.to_owned());
        let named = |to: &str, of: &str| Target::named(to, of).map_err(|error| error.to_string());
        assert_eq!(named("fast", "r.example/a/b:1"), Ok(image("r.example/a/b:fast")));
        assert_eq!(named("fast", "docker://r.example:5000/a"), Ok(image("r.example:5000/a:fast")));
        assert_eq!(named("r.example/c:2", "oci:x"), Ok(image("r.example/c:2")));
        assert_eq!(named("oci:out", "r.example/a"), Ok(Target::Layout("out".into())));
        assert!(named("fast", "oci:x").is_err() && named("no/tag", "oci:x").is_err());
    }
}
