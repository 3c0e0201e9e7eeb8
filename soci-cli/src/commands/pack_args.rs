//! The flags that ask for a working-set pack beside an index, for `create` and `convert`, and what is said of it. Holds no
//! state.

use indicatif::HumanBytes;
use soci_core::{
    pack::{Budget, PackReport, PackSettings, Purpose, Selector},
    prefetch::Plan,
};

use crate::{help::heading::PLANNING, output::progress::Progress, size};

/// A pack beside the index.
#[derive(Debug, clap::Args)]
pub(crate) struct PackArgs {
    /// Also make a working-set pack: the bytes that the workload needs, in the order of need, in one blob. The default with
    /// --trace and --profile.
    #[arg(long, help_heading = PLANNING, requires = "evidence")]
    pack: bool,
    /// Make no working-set pack.
    #[arg(long, help_heading = PLANNING, conflicts_with_all = ["pack", "pack_name", "pack_selector", "pack_budget"])]
    no_pack: bool,
    /// Name of the workload; an image can have a pack for each of several. A pack takes the place of the image's one with
    /// the same name.
    #[arg(long, help_heading = PLANNING, value_name = "NAME", requires = "evidence")]
    pack_name: Option<String>,
    /// Only for nodes that have this attribute in the `[pack.attributes]` of their configuration. May be repeated: all must be
    /// there. If several packs match a node, the one with the most matching
    /// selectors wins.
    #[arg(long, help_heading = PLANNING, value_name = "NAME=VALUE", requires = "evidence")]
    pack_selector: Vec<Selector>,
    /// Largest size of the pack, in bytes (20MB, 16MiB) or as a share of the image as it is stored (25%): what is needed
    /// last is left out.
    #[arg(long, help_heading = PLANNING, value_name = "SIZE", requires = "evidence", value_parser = budget)]
    pack_budget: Option<Budget>,
}

impl PackArgs {
    /// Name of the workload; empty when it has none.
    pub(crate) fn name(&self) -> &str {
        self.pack_name.as_deref().unwrap_or_default()
    }

    /// Whether a pack is to be made of what is known, or of nothing.
    pub(crate) fn is_wanted(&self, evidence: bool) -> bool {
        evidence && !self.no_pack
    }

    /// What to pack of this plan.
    pub(crate) fn settings(&self, plan: Option<&Plan>) -> Option<PackSettings> {
        let plan = plan.filter(|_| !self.no_pack)?.clone();
        let purpose = purpose(self.pack_name.as_ref(), &self.pack_selector);
        let asked_for = self.pack || self.pack_name.is_some();
        Some(PackSettings {
            plan,
            budget: self.pack_budget,
            purpose,
            advised_whole: false,
            optional: !asked_for,
        })
    }

    /// A pack with this name and size.
    pub(super) fn named(name: Option<String>, budget: Option<Budget>) -> Self {
        Self { pack: true, no_pack: false, pack_name: name, pack_selector: Vec::new(), pack_budget: budget }
    }
}

/// What a pack is to be for.
pub(crate) fn purpose(name: Option<&String>, selectors: &[Selector]) -> Purpose {
    let selectors = selectors.iter().map(|selector| (selector.name.clone(), selector.value.clone()));
    Purpose { workload: name.cloned(), selectors: selectors.collect() }
}

/// Reads a size, or percent of the image.
pub(crate) fn budget(text: &str) -> Result<Budget, String> {
    let Some(percent) = text.strip_suffix('%') else { return size::parse(text).map(Budget::Bytes) };
    let percent = percent.parse().ok().filter(|percent| (1..=100).contains(percent));
    percent.map(Budget::Percent).ok_or_else(|| format!("{text:?} is not 1% to 100%"))
}

/// Says what became of a pack.
pub(crate) fn tell(pack: &PackReport, progress: &Progress) {
    progress.line(&format!("pack -> {}", pack.descriptor.digest));
    for (layer, bytes) in &pack.left_out {
        let bytes = HumanBytes(*bytes);
        say!("note: {bytes} of the trace lie in layer {layer}, which has no zTOC: they are not in the pack");
    }
    if pack.cut > 0 {
        let (cut, before) = (HumanBytes(pack.cut), HumanBytes(pack.cut_must_have));
        say!(
            "note: the budget keeps {cut} out of the pack, {before} of them needed or mapped before the workload is ready"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_sizes_or_shares() {
        assert_eq!(budget("20MB"), Ok(Budget::Bytes(20_000_000)));
        assert_eq!(budget("25%"), Ok(Budget::Percent(25)));
        for text in ["", "%", "0%", "101%", "-1", "20 mb"] {
            assert!(budget(text).is_err(), "{text}");
        }
    }
}
