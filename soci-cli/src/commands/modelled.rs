//! What the planner's model decides when an index is made: the span size, and whether a full pull is to be advised. Holds no state.

use anyhow::{Context, Result};
use planner::profile::Threshold;
use planner::simulate::{Advice, Case, Layout, Mode, Node, span_sizes};
use soci_core::image::Image;
use soci_core::index::{self, Event, Settings};
use tokio::runtime::Handle;

use super::evidence::Known;

/// What is to be decided.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Open {
    /// `--span-size auto`.
    pub(crate) span_size: bool,
    /// `--advise`.
    pub(crate) advice: bool,
    /// A pack is made, too.
    pub(crate) pack: bool,
}

impl Open {
    /// Whether there is nothing to decide.
    pub(crate) const fn is_nothing(self) -> bool {
        !self.span_size && !self.advice
    }

    /// Decides for an image. That reads its layers once more.
    pub(crate) fn decide(
        self,
        known: &Known,
        image: &Image,
        runtime: &Handle,
        tell: &(dyn Fn(Event<'_>) + Sync),
        settings: &mut Settings,
    ) -> Result<()> {
        if self.is_nothing() {
            return Ok(());
        }
        let case = case(known, image, runtime, tell)?;
        let node = Node::default();
        let mut layout = Layout {
            span_size: settings.span_size,
            min_layer_size: settings.min_layer_size,
            hug: settings.trace.as_ref().and_then(|trace| trace.span_gap),
            ..Layout::default()
        };
        if self.span_size
            && let Some(best) = span_sizes(&case, &node, &layout).first()
        {
            settings.span_size = best.span_size;
            layout.span_size = best.span_size;
            let size = indicatif::HumanBytes(best.span_size);
            say!("note: spans of {size}: ready in {:.2} s, predicted (mean over three links)", best.ready);
        }
        if self.advice {
            let advice =
                Advice::of(&case, if self.pack { Mode::Pack } else { Mode::Prefetch }, &node, &layout);
            settings.advised_whole = say_advice(&advice);
        }
        Ok(())
    }
}

/// Whether a full pull is to be advised beside a pack. Reads the layers once more.
pub(crate) fn advised_beside_pack(
    known: &Known,
    image: &Image,
    runtime: &Handle,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<bool> {
    let case = case(known, image, runtime, tell)?;
    Ok(say_advice(&Advice::of(&case, Mode::Pack, &Node::default(), &Layout::default())))
}

fn case(known: &Known, image: &Image, runtime: &Handle, tell: &(dyn Fn(Event<'_>) + Sync)) -> Result<Case> {
    let profile = known.profile_for(image, runtime, tell)?;
    let layers = index::anatomy(image, runtime, tell).context("cannot read the layers")?;
    Case::new(layers, &profile, Threshold::default(), None).context("cannot predict starts of the image")
}

/// Says what was found; whether a full pull is advised.
fn say_advice(advice: &Advice) -> bool {
    let is_whole = advice.is_whole();
    let better =
        if is_whole { "faster, which the artifacts say to nodes" } else { "not faster over all links" };
    say!("note: a full pull is predicted to be {better}");
    for by_link in &advice.by_link {
        say!(
            "note:   {}: full {:.2} s, {} {:.2} s",
            by_link.link,
            by_link.full,
            advice.mode.name(),
            by_link.parts
        );
    }
    is_whole
}
