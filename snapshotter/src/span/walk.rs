//! Readers that walk forward through a file, and how far ahead of them to fetch.
//!
//! State: the last few places where a reader had to wait, owned by the layer's [`super::SpanManager`]. A guess only: a
//! wrong one costs bytes, never a wrong answer. The window doubles with each step, so a file that is touched once costs
//! nothing extra.

use std::collections::VecDeque;

use soci_core::units::SpanId;

const REMEMBERED: usize = 8;
const MAX_WINDOW: u32 = 16;

/// Recent misses of one layer.
#[derive(Debug, Default)]
pub(super) struct Walks(VecDeque<Walk>);

#[derive(Debug)]
struct Walk {
    file: u64,
    next: u32,
    window: u32,
}

impl Walks {
    /// A reader of the file whose content starts at `file` misses the spans `first..=last`. Returns how many spans after
    /// `last` to fetch too: none at a first touch, then 1, 2, 4, ... as the reader moves on.
    pub(super) fn step(&mut self, first: SpanId, last: SpanId, file: u64) -> u32 {
        let known = self.0.iter().position(|walk| walk.file == file && walk.next == first.0);
        let window = match known.and_then(|at| self.0.remove(at)) {
            Some(walk) => (walk.window * 2).clamp(1, MAX_WINDOW),
            None => 0,
        };
        self.0.truncate(REMEMBERED - 1);
        self.0.push_front(Walk { file, next: last.0.saturating_add(1).saturating_add(window), window });
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_doubles_along_a_file_and_only_there() {
        let mut walks = Walks::default();
        assert_eq!(walks.step(SpanId(4), SpanId(4), 100), 0);
        assert_eq!(walks.step(SpanId(9), SpanId(9), 100), 0, "a jump is not a step");
        assert_eq!(walks.step(SpanId(5), SpanId(5), 100), 1);
        assert_eq!(walks.step(SpanId(7), SpanId(7), 100), 2);
        assert_eq!(walks.step(SpanId(10), SpanId(10), 200), 0, "another file is another walk");
    }
}
