//! A look into an image without indexing it: which files it shows, and how long they are.
//!
//! Owns nothing. What must always hold: a view is of all layers, each with the digest that the manifest gives, or there
//! is none.

use tokio::runtime::Handle;

use super::{LayerBuildError, planned};
use crate::{
    image::Image,
    prefetch::{ImageView, LayerFile},
};

/// Reads all layers of an image and puts them on top of each other. Blocks; not to be called on a thread that runs
/// async tasks. `runtime` drives transfers from a registry.
///
/// # Errors
/// When a layer cannot be read, is damaged, or is compressed in a way that cannot be read here.
pub fn view(image: &Image, runtime: &Handle) -> Result<ImageView, LayerBuildError> {
    let mut tables: Vec<Vec<LayerFile>> = Vec::new();
    for layer in image.layers() {
        let bytes = planned::open(image, layer, None, runtime)?;
        tables.push(planned::walk(layer, bytes, false)?.files);
    }
    Ok(ImageView::build(tables.iter().enumerate()))
}
