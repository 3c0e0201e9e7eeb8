//! Where a pack is: what its manifest says of it. Plain data.

use soci_core::digest::Digest;
use soci_core::image::Descriptor;
use soci_core::pack::HeadPin;

/// A pack that is to be streamed.
#[derive(Clone, Debug)]
pub(crate) struct PackSource {
    /// Its manifest.
    pub(crate) digest: Digest,
    /// Its blob.
    pub(crate) blob: Descriptor,
    /// What the manifest says of its head.
    pub(crate) head: HeadPin,
}
