//! What `create`, `convert` and `pack create` have made, for `--json`. [`Heard`] owns what the builder has told so far; the
//! keys are an interface.

use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use soci_core::{digest::Digest, image::Descriptor, index::Event, pack::PackReport};

/// One layer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Layer {
    digest: Digest,
    size: u64,
    media_type: String,
    /// `null`: it has none.
    ztoc: Option<Digest>,
    /// The zTOC was known before.
    existed: bool,
    /// Why it has no zTOC.
    skipped: Option<String>,
    prefetch: Option<Digest>,
}

/// One pack.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Pack {
    digest: Digest,
    /// Bytes of the blob, and before compression.
    size: u64,
    plain_size: u64,
    blocks: usize,
    must_have_blocks: usize,
    /// Plain bytes that the budget left out, and how many of them are needed before the workload is ready.
    cut: u64,
    cut_must_have: u64,
}

/// What was made of one image, or of all of its platforms.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Built {
    layers: Vec<Layer>,
    fine_indexes: Vec<Digest>,
    pub(crate) packs: Vec<Pack>,
}

/// What the builder has told.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Built>);

impl Heard {
    /// Keeps what an event says of results.
    pub(crate) fn hear(&self, event: &Event<'_>) {
        let mut built = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Ztoc { layer, ztoc, existed } => {
                built.layers.push(Layer { ztoc: Some(*ztoc), existed: *existed, ..self::layer(layer) });
            }
            Event::Skipped { layer, reason } => {
                built.layers.push(Layer { skipped: Some(reason.to_string()), ..self::layer(layer) });
            }
            Event::Prefetch { layer, artifact } => {
                for one in built.layers.iter_mut().filter(|one| one.digest == *layer) {
                    one.prefetch = Some(*artifact);
                }
            }
            Event::FineIndex(fine) => built.fine_indexes.push(fine.digest),
            Event::Pack(pack) => built.packs.push(self::pack(pack)),
            _ => {}
        }
    }

    /// All of it; what comes later begins anew.
    pub(crate) fn take(&self) -> Built {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn layer(layer: &Descriptor) -> Layer {
    Layer {
        digest: layer.digest,
        size: layer.size,
        media_type: layer.media_type.clone(),
        ztoc: None,
        existed: false,
        skipped: None,
        prefetch: None,
    }
}

fn pack(pack: &PackReport) -> Pack {
    Pack {
        digest: pack.descriptor.digest,
        size: pack.size,
        plain_size: pack.plain,
        blocks: pack.blocks.0,
        must_have_blocks: pack.blocks.1,
        cut: pack.cut,
        cut_must_have: pack.cut_must_have,
    }
}
