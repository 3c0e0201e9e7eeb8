//! Needs of one file put together, so that no run needs a byte twice. Pure.

use soci_core::units::ByteRange;

use super::Need;
use crate::plan::Coverage;

/// The needs without what a run needs twice: the earlier one counts.
pub(super) fn once_for_each_run(mut needs: Vec<Need>) -> Vec<Need> {
    needs.sort_unstable_by_key(|need| (need.run, need.class, need.t_us, need.start, need.end));
    let mut once = Vec::with_capacity(needs.len());
    let mut covered = Coverage::default();
    let mut run = None;
    for need in needs {
        if run.replace(need.run) != Some(need.run) {
            covered = Coverage::default();
        }
        let new = covered.add(need.range());
        once.extend(new.into_iter().map(|ByteRange { start, end }| Need { start, end, ..need }));
    }
    once.sort_unstable();
    once
}
