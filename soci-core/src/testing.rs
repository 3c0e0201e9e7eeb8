//! Builders of tars, gzip streams, layers and images for tests, and an unpack by GNU tar to compare with.
//!
//! Only built with the feature `testing`. Owns nothing between calls. Invariants: the same description always
//! gives the same bytes; nothing here uses the parsers or readers that tests want to check. Wrong use panics,
//! since it is a mistake in a test.

mod content;
mod gzip;
mod image;
pub mod reference;
mod tar;
mod tree;

pub use content::content;
pub use gzip::{GzipShape, gunzip, gzip};
pub use image::{ImageBuilder, LayerFormat, WrittenImage, WrittenLayer};
pub use tar::{TarBuilder, TarEntry, TarFormat};
pub use tree::{Node, describe};
