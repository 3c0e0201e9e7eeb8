//! What `create`, `convert` and `pack create` have made, for `--json`. [`Heard`] owns what the builder has told so far; the
//! keys are an interface.

use std::sync::{Arc, Mutex, PoisonError};

use indicatif::HumanBytes;
use planner::plan::LeftOut;
use serde::Serialize;
use soci_core::{
    digest::Digest,
    image::{Descriptor, Image},
    index::Event,
    pack::PackReport,
    prefetch::{Ahead, Plan},
};

use super::evidence::Planned;

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
    pub(crate) size: u64,
    plain_size: u64,
    blocks: usize,
    must_have_blocks: usize,
    /// Plain bytes that the budget left out, and how many of them are needed before the workload is ready.
    cut: u64,
    cut_must_have: u64,
}

/// What was planned for one image.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PlanOf {
    pub(crate) manifest: Digest,
    /// Bytes of its layers as they are stored.
    pub(crate) image_size: u64,
    /// Files that are needed, bytes of them, and how many of those before the workload is ready.
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    must_have_bytes: u64,
    /// What the prefetch artifacts name; `null` when none were asked for.
    prefetch: Option<Prefetched>,
    left_out: Without,
}

/// Spans of zTOCs; bytes are compressed.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Prefetched {
    spans: u64,
    bytes: u64,
    /// What `--prefetch-budget` left out.
    cut_spans: u64,
    cut_bytes: u64,
}

/// What is needed and not planned.
#[derive(Debug, Clone, Copy, Serialize)]
struct Without {
    /// Because few runs have needed it.
    rare: Files,
    /// By `--include` and `--exclude`.
    excluded: Files,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Files {
    files: usize,
    bytes: u64,
}

/// What was made of one image, or of all of its platforms.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Built {
    pub(crate) plans: Vec<PlanOf>,
    layers: Vec<Layer>,
    fine_indexes: Vec<Digest>,
    /// Bytes of the tables of the fine indexes, which a start downloads.
    #[serde(skip)]
    pub(crate) fine_tables: u64,
    pub(crate) packs: Vec<Pack>,
}

impl Built {
    /// Says on standard error what was planned, in few lines.
    pub(crate) fn sum_up(&self, dry_run: bool) {
        for plan in &self.plans {
            let Without { excluded, .. } = plan.left_out;
            say!(
                "plan:        {} files, {} are needed, {} of them before the workload is ready",
                plan.files,
                HumanBytes(plan.bytes),
                HumanBytes(plan.must_have_bytes)
            );
            if excluded.files > 0 {
                let bytes = HumanBytes(excluded.bytes);
                say!("left out:    {} files, {bytes}, by --include and --exclude", excluded.files);
            }
            if let Some(spans) = plan.prefetch {
                say!("prefetch:    {} spans, {}", spans.spans, share(spans.bytes, plan.image_size));
            }
        }
        // With several platforms, a share says nothing: all packs are of one order, and none of one image.
        for pack in &self.packs {
            match self.plans.as_slice() {
                [plan] => say!("pack:        {}", share(pack.size, plan.image_size)),
                _ => say!("pack:        {}", HumanBytes(pack.size)),
            }
        }
        if dry_run {
            say!("dry run:     nothing of this was kept");
        }
    }
}

fn share(bytes: u64, of: u64) -> String {
    let percent = if of == 0 { 0.0 } else { bytes as f64 * 100.0 / of as f64 };
    format!("{}, {percent:.1} % of the image", HumanBytes(bytes))
}

/// What the builder has told; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<Built>>);

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
            Event::Ahead { image, ahead } => {
                for plan in built.plans.iter_mut().filter(|plan| plan.manifest == *image) {
                    let Ahead { spans, bytes, cut_spans, cut_bytes } = *ahead;
                    plan.prefetch = Some(Prefetched { spans, bytes, cut_spans, cut_bytes });
                }
            }
            Event::FineIndex { manifest, tables } => {
                built.fine_indexes.push(manifest.digest);
                built.fine_tables += tables;
            }
            Event::Pack(pack) => built.packs.push(self::pack(pack)),
            _ => {}
        }
    }

    /// Keeps what is planned for an image, and gives the plan.
    pub(crate) fn plan(&self, image: &Image, planned: Planned) -> Plan {
        let Planned { plan, rare, excluded } = planned;
        let bytes = |count: usize| plan.items[..count].iter().map(|item| item.range.len()).sum();
        let mut paths: Vec<_> = plan.items.iter().map(|item| &item.path).collect();
        paths.sort_unstable();
        paths.dedup();
        let files = |left_out: LeftOut| Files { files: left_out.files, bytes: left_out.bytes };
        let one = PlanOf {
            manifest: image.manifest.digest,
            image_size: image.layers().iter().fold(0, |all, layer| layer.size.saturating_add(all)),
            files: paths.len(),
            bytes: bytes(plan.items.len()),
            must_have_bytes: bytes(plan.must_have),
            prefetch: None,
            left_out: Without { rare: files(rare), excluded: files(excluded) },
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).plans.push(one);
        plan
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
