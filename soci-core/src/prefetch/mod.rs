//! Prefetch: which spans of which layer to fetch before they are asked for.
//!
//! A [`Plan`] (paths and byte ranges in the order of need) is looked up in an [`ImageView`] (which layer each visible file
//! comes from) and mapped to span ranges ([`map()`]), which go into one [`PrefetchArtifact`] for each layer. A plain list
//! of paths is looked up in the same view ([`select()`]), or by upstream's own algorithm ([`compat`]). Nothing here holds state.

pub mod artifact;
pub mod compat;
mod image_view;
mod map;
mod pattern;
pub mod plan;
mod select;

#[cfg(test)]
mod tests;

pub use artifact::{ArtifactError, PrefetchArtifact, PrefetchSpan};
pub use image_view::{ImageView, LayerFile, Located, NotLocated, VisibleKind};
pub use map::{Ahead, Mapped, Needs, map};
pub use plan::{Plan, PlanItem};
pub use select::{Chosen, Meaning, Selected, Selection, artifacts as select};
