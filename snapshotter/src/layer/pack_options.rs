//! Which companions of an image a node may use. Plain data.

use std::collections::BTreeSet;

use soci_core::digest::Digest;

/// Use of fine indexes and packs.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Use packs.
    pub enable: bool,
    /// Use fine indexes, with or without a pack.
    pub fine: bool,
    /// Bytes, as the registry has them, above which a pack is not used.
    pub max_bytes: u64,
    /// Use only the companions whose manifests are in [`PackOptions::verified`].
    pub require_verified: bool,
    /// Digests of manifests of companions.
    pub verified: BTreeSet<Digest>,
    /// Name of the pack that is preferred when an image has several. Empty: none.
    pub workload: String,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            enable: true,
            fine: true,
            max_bytes: 1 << 30,
            require_verified: false,
            verified: BTreeSet::new(),
            workload: String::new(),
        }
    }
}

impl PackOptions {
    /// No companion is used.
    pub fn off() -> Self {
        Self { enable: false, fine: false, ..Self::default() }
    }

    /// Whether the companion with this manifest may be used. To be asked before anything but the manifest is fetched.
    pub fn accepts(&self, manifest: &Digest) -> bool {
        !self.require_verified || self.verified.contains(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_looked_at_is_accepted_where_that_is_required() {
        let (known, other) = (Digest::of(b"known"), Digest::of(b"other"));
        let mut options = PackOptions { verified: BTreeSet::from([known]), ..PackOptions::default() };
        assert!(options.accepts(&known) && options.accepts(&other));
        options.require_verified = true;
        assert!(options.accepts(&known) && !options.accepts(&other));
    }
}
