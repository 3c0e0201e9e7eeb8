//! What a pack that was made is like. Holds no state.

use crate::{digest::Digest, image::Descriptor};

/// What was made.
#[derive(Debug, Clone)]
pub struct PackReport {
    /// The pack's manifest, as a list of referrers has it.
    pub descriptor: Descriptor,
    /// Bytes of the blob.
    pub size: u64,
    /// Plain bytes in it.
    pub plain: u64,
    /// Its blocks, and how many of them are to be had first.
    pub blocks: (usize, usize),
    /// Plain bytes that the budget cut.
    pub cut: u64,
    /// How many of those were needed before the workload was ready.
    pub cut_must_have: u64,
    /// Layers that are not served in parts, hence left out, with the bytes that are needed of each.
    pub left_out: Vec<(Digest, u64)>,
}
