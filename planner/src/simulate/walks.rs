//! Readers that walk forward through a file, and how far ahead of them is fetched (snapshotter: `span::walk`): nothing at a first
//! touch, then 1, 2, 4 … spans.

use std::collections::VecDeque;

const REMEMBERED: usize = 8;
const MOST: usize = 16;

/// The last misses of one layer.
#[derive(Debug, Default)]
pub(super) struct Walks(VecDeque<Walk>);

#[derive(Debug)]
struct Walk {
    file: u64,
    next: usize,
    window: usize,
}

impl Walks {
    /// A reader of the file that begins at `file` misses the spans `first..=last`. How many behind `last` are fetched, too.
    pub(super) fn step(&mut self, first: usize, last: usize, file: u64) -> usize {
        let known = self.0.iter().position(|walk| walk.file == file && walk.next == first);
        let window =
            known.and_then(|at| self.0.remove(at)).map_or(0, |walk| (walk.window * 2).clamp(1, MOST));
        self.0.truncate(REMEMBERED - 1);
        self.0.push_front(Walk { file, next: last + 1 + window, window });
        window
    }
}
