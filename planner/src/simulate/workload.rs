//! One workload of one image: what it needs and when, and how the image could be served. Pure.

use soci_core::index::LayerAnatomy;
use soci_core::prefetch::{ImageView, Needs};
use soci_core::units::ByteRange;

use crate::profile::{Profile, RunEnd, Threshold};

/// Why a start cannot be predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CaseError {
    /// Without a run that became ready, or ended by itself, there is nothing to wait for.
    #[error("no recording of the profile became ready")]
    NeverReady,
    /// Nothing of it is in the image.
    #[error("nothing that the profile needs is in the image")]
    OtherImage,
}

/// A workload and its image.
#[derive(Debug)]
pub struct Case {
    pub(super) layers: Vec<LayerAnatomy>,
    /// What is fetched ahead, in order.
    pub(super) plan: Needs,
    pub(super) needs: Vec<Need>,
    /// Seconds from the workload's first instruction until it is ready, when every byte is there.
    pub(super) compute: f64,
}

/// Bytes that the workload cannot go on without.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Need {
    /// Seconds of the workload's own work that come before it.
    pub(super) after: f64,
    pub(super) layer: usize,
    pub(super) range: ByteRange,
    /// Where the file begins in the layer.
    pub(super) file: u64,
}

impl Case {
    /// The start that the profile's fastest recording was: the one that was disturbed least. `compute` is how long the workload works
    /// until it is ready when every byte is there, if that was measured (seconds): the recorded times are scaled to it.
    ///
    /// # Errors
    /// See [`CaseError`].
    pub fn new(
        layers: Vec<LayerAnatomy>,
        profile: &Profile,
        threshold: Threshold,
        compute: Option<f64>,
    ) -> Result<Self, CaseError> {
        let view = ImageView::build(layers.iter().map(|layer| layer.files.iter()).enumerate());
        let plan = Needs::of(&profile.plan(threshold).plan, &view);
        let ready = |run: &crate::profile::Run| {
            run.ready_us.or_else(|| (run.outcome == RunEnd::Exited).then_some(run.ended_us))
        };
        let runs = (0u32..).zip(profile.runs()).filter_map(|(number, run)| Some((ready(run)?, number)));
        let (ready, run) = runs.min().ok_or(CaseError::NeverReady)?;
        let mut needs = Vec::new();
        for (path, file) in profile.files() {
            let Ok(located) = view.locate(path) else { continue };
            let start = located.content.start;
            for need in file.needs.iter().filter(|need| need.run == run && need.t_us <= ready) {
                let wanted = ByteRange::new(start.saturating_add(need.start), start.saturating_add(need.end));
                let range = located.content.intersect(&wanted);
                needs.extend(range.map(|range| (need.t_us, located.layer, range, start)));
            }
        }
        if needs.is_empty() {
            return Err(CaseError::OtherImage);
        }
        needs.sort_unstable_by_key(|&(t, layer, range, _)| (t, layer, range));
        let recorded = ready as f64 / 1e6;
        let compute = compute.filter(|compute| compute.is_finite() && *compute >= 0.0).unwrap_or(recorded);
        let scale = if recorded > 0.0 { compute / recorded } else { 0.0 };
        let mut before = 0;
        let needs = needs.into_iter().map(|(t, layer, range, file)| {
            let after = (t - std::mem::replace(&mut before, t)) as f64 / 1e6 * scale;
            Need { after, layer, range, file }
        });
        Ok(Self { needs: needs.collect(), layers, plan, compute })
    }

    /// Seconds of the workload's own work behind its last need.
    pub(super) fn rest(&self) -> f64 {
        (self.compute - self.needs.iter().map(|need| need.after).sum::<f64>()).max(0.0)
    }

    /// Compressed bytes of the image.
    pub fn compressed(&self) -> u64 {
        self.layers.iter().map(|layer| layer.compressed).sum()
    }

    /// Plain bytes of the image.
    pub fn plain(&self) -> u64 {
        self.layers.iter().map(|layer| layer.plain).sum()
    }

    /// Bytes that the workload needs until it is ready.
    pub fn needed(&self) -> u64 {
        let mut known = vec![crate::plan::Coverage::default(); self.layers.len()];
        self.needs.iter().flat_map(|need| known[need.layer].add(need.range)).map(|part| part.len()).sum()
    }
}
