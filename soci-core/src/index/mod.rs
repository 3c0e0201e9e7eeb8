//! SOCI indexes: their manifests, and how they are built from an image.
//!
//! [`SociIndex`] is the manifest, [`build`] makes one. What must always hold: the same layers and settings give the same
//! bytes, whatever the order in which layers were built.

pub(crate) mod advice;
mod anatomy;
mod builder;
mod companion;
mod contents;
mod event;
mod fine;
mod in_parts;
mod layer;
mod look;
mod manifest;
pub(crate) mod planned;
mod rebuild;
mod report;
mod settings;
mod told;

pub use advice::is_advised_whole;
pub use anatomy::{LayerAnatomy, Mark, anatomy};
pub use builder::build;
pub use companion::{Companion, CompanionKind, companion_of};
pub use contents::{FileDigest, file_digests};
pub use event::Event;
pub use in_parts::{InParts, fine_tables};
pub use layer::{LayerBuildError, SkipReason};
pub use look::view;
pub use manifest::{EMPTY_CONFIG, IndexError, IndexVersion, SociIndex, is_ztoc, layer_of};
pub use rebuild::{Images, rebuild};
pub use report::{BuildError, BuildReport};
pub use settings::{DEFAULT_MIN_LAYER_SIZE, PlanOfFiles, PlanSource, Settings, TraceSettings};
pub(crate) use told::Told;
