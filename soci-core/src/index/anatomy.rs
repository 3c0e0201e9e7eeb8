//! What a prediction needs to know of an image: its files, and which compressed bytes give which plain bytes.
//!
//! Owns nothing. What must always hold: the marks of a layer ascend in both offsets, begin at zero and end at the layer's ends.

use tokio::runtime::Handle;

use super::planned::{self, Table};
use super::{Event, LayerBuildError, Told};
use crate::{
    image::{Descriptor, Image},
    prefetch::LayerFile,
    tar::Parser,
};

/// Plain bytes between two marks at least: what lies closer is one place to a prediction.
const APART: u64 = 4 << 10;
/// Distance of the marks of a layer that has no blocks: a plain tar, which can be read from anywhere.
const EVERYWHERE: u64 = 64 << 10;
/// Plain bytes for each compressed one, of a layer that nobody here can read.
const USUAL_RATIO: u64 = 3;

/// A place in a layer at which a span can begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    /// Offset in the tar, bytes.
    pub plain: u64,
    /// Offset in the layer's blob, bytes.
    pub compressed: u64,
}

/// One layer.
#[derive(Debug, Clone)]
pub struct LayerAnatomy {
    /// Length of the blob, bytes.
    pub compressed: u64,
    /// Length of the tar, bytes.
    pub plain: u64,
    /// Whether a zTOC can describe it.
    pub in_parts: bool,
    /// Where spans can begin; the first is the layer's start, the last its end.
    pub marks: Vec<Mark>,
    /// The entries of its tar.
    pub files: Vec<LayerFile>,
}

/// Reads all layers of an image once, one after the other. A layer that nobody here can unpack counts as one that is only had whole.
/// Blocks; not to be called on a thread that runs async tasks. `tell` hears of bytes that were read.
///
/// # Errors
/// When a layer cannot be had, or has another digest than the manifest says.
pub fn anatomy(
    image: &Image,
    runtime: &Handle,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Vec<LayerAnatomy>, LayerBuildError> {
    let read = |layer: &Descriptor| {
        let bytes = Told { inner: planned::open(image, layer, None, runtime)?, blob: layer, tell };
        of_layer(layer, bytes).or_else(|error| error.skips().map(|_| unread(layer)))
    };
    image.layers().iter().map(read).collect()
}

fn of_layer(layer: &Descriptor, bytes: impl std::io::Read) -> Result<LayerAnatomy, LayerBuildError> {
    let (mut parser, mut table) = (Parser::new(), Table::default());
    let (mut marks, mut plain) = (vec![Mark::default()], 0);
    planned::plain(layer, bytes, &mut |part, ended| {
        plain += part.len() as u64;
        let last = marks.last().copied().unwrap_or_default();
        if let Some(compressed) = ended.filter(|_| plain >= last.plain + APART) {
            marks.push(Mark { plain, compressed });
        }
        Ok(parser.push(part, &mut table)?)
    })?;
    parser.finish()?;
    let end = Mark { plain, compressed: layer.size };
    if marks.len() == 1 {
        let places = (1..plain.div_ceil(EVERYWHERE)).map(|at| at * EVERYWHERE);
        marks.extend(places.map(|plain| Mark { plain, compressed: plain.min(layer.size) }));
    }
    marks.retain(|mark| {
        *mark == Mark::default() || mark.plain < end.plain && mark.compressed < end.compressed
    });
    marks.push(end);
    Ok(LayerAnatomy { compressed: layer.size, plain, in_parts: table.in_parts(), marks, files: table.files })
}

fn unread(layer: &Descriptor) -> LayerAnatomy {
    let plain = layer.size.saturating_mul(USUAL_RATIO);
    let marks = vec![Mark::default(), Mark { plain, compressed: layer.size }];
    LayerAnatomy { compressed: layer.size, plain, in_parts: false, marks, files: Vec::new() }
}
