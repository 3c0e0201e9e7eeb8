//! The flags that narrow a plan to paths of the image. Plain values.

use anyhow::Result;
use planner::plan::Paths;

use crate::{help::heading::PLANNING, hint::Hinted};

/// Which paths may be fetched ahead.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Globs {
    /// Fetch ahead only paths that match this glob, and what lies below them. * and ? stop at a slash, ** does not; a glob
    /// without a slash matches a name at any depth. May be repeated: any of them may match.
    #[arg(long, help_heading = PLANNING, value_name = "GLOB")]
    include: Vec<String>,
    /// Do not fetch ahead paths that match this glob, nor what lies below them. May be repeated; stronger than --include.
    #[arg(long, help_heading = PLANNING, value_name = "GLOB")]
    exclude: Vec<String>,
}

impl Globs {
    /// The paths that are left. `evidence`: there is a plan to be narrowed.
    pub(super) fn paths(&self, evidence: bool) -> Result<Paths> {
        let none = self.include.is_empty() && self.exclude.is_empty();
        if !(evidence || none) {
            let message = "--include and --exclude narrow what a recording needs, and there is none";
            return Err(Hinted::new(message, "give it a --trace or a --profile").into());
        }
        Paths::new(&self.include, &self.exclude).map_err(|error| {
            let message = soci_core::error::chain(&error);
            Hinted::new(message, "globs are paths with *, **, ?, [a-z] and {a,b}").into()
        })
    }
}
