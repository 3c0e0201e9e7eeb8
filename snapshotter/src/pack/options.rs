//! Which companions of an image a node may use. Plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use soci_core::digest::Digest;

use crate::choice::Chooser;

/// Who says that a companion belongs to an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// The image index that the image's name points to: whoever can change that can change the image.
    ByImage,
    /// A registry's list of referrers: whoever may push to the repository gets into it.
    ByReferrers,
}

/// Use of fine indexes and packs.
#[derive(Debug, Clone)]
pub struct PackOptions {
    /// Use packs.
    pub enable: bool,
    /// Use fine indexes, with or without a pack.
    pub fine: bool,
    /// Bytes, as the registry has them, above which a pack is not used.
    pub max_bytes: u64,
    /// Take what refers to an image as its publisher's word. Else only what the image itself lists, and what is in
    /// [`PackOptions::verified`].
    pub referrers: bool,
    /// Use only the companions whose manifests are in [`PackOptions::verified`].
    pub require_verified: bool,
    /// Digests of manifests of companions.
    pub verified: BTreeSet<Digest>,
    /// Which workload a start is for: its pack is preferred when an image has several.
    pub chooser: Arc<Chooser>,
    /// What the node is: packs with other selectors are for other nodes.
    pub attributes: BTreeMap<String, String>,
    /// Pull an image whole when its index, or the pack of the start, advises it.
    pub advice: bool,
    /// Look up a pack's names in the mounts, and put its pages into the kernel's page cache, before the workload asks for them.
    pub page_cache: bool,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            enable: true,
            fine: true,
            max_bytes: 1 << 30,
            referrers: false,
            require_verified: false,
            verified: BTreeSet::new(),
            chooser: Arc::default(),
            attributes: BTreeMap::new(),
            advice: true,
            page_cache: true,
        }
    }
}

impl PackOptions {
    /// No companion is used.
    pub fn off() -> Self {
        Self { enable: false, fine: false, ..Self::default() }
    }

    /// Whether any companion can be of use.
    pub fn any(&self) -> bool {
        self.enable || self.fine
    }

    /// Whether it is worth to ask for what refers to an image.
    pub fn asks_for_referrers(&self) -> bool {
        self.any() && (self.referrers || !self.verified.is_empty())
    }

    /// Whether the companion with this manifest may be used, `listed` by the image or by a list of referrers. To be asked
    /// before anything of it is fetched.
    pub fn accepts(&self, manifest: &Digest, listed: Listed) -> bool {
        let trusted = listed == Listed::ByImage || self.referrers;
        self.verified.contains(manifest) || trusted && !self.require_verified
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_depends_on_who_lists_it_and_on_what_was_verified() {
        let (known, other) = (Digest::of(b"known"), Digest::of(b"other"));
        let mut options = PackOptions { verified: BTreeSet::from([known]), ..PackOptions::default() };
        let accepted = |options: &PackOptions| {
            [Listed::ByImage, Listed::ByReferrers]
                .map(|listed| (options.accepts(&known, listed), options.accepts(&other, listed)))
        };
        assert_eq!(accepted(&options), [(true, true), (true, false)]);
        options.referrers = true;
        assert_eq!(accepted(&options), [(true, true), (true, true)]);
        options.require_verified = true;
        assert_eq!(accepted(&options), [(true, false), (true, false)]);
    }
}
