//! Images: descriptors, manifests, configurations, and the places they come from.
//!
//! [`ImageSource`] is where an image is looked for, [`Image`] is one platform's manifest and config found there. What
//! must always hold: manifest and config bytes were checked against their digests; layer bytes are checked by whoever
//! reads them to the end.

mod archive;
mod config;
mod descriptor;
pub(crate) mod document;
mod documents;
mod error;
mod layer;
mod list;
mod manifest;
mod parts;
mod platform;
mod source;

#[cfg(test)]
mod tests;

pub use archive::Archive;
pub use config::{ConfigError, ImageConfig, MAX_CONFIG};
pub use descriptor::Descriptor;
pub(crate) use documents::Documents;
pub use error::ImageError;
pub use layer::LayerReader;
pub(crate) use list::List;
pub use manifest::{ImageIndex, MAX_MANIFEST, Manifest, ManifestError};
pub use parts::WholeImage;
pub use platform::{Platform, PlatformError};
pub use source::{Image, ImageSource};
