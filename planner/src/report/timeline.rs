//! Accesses in bins of time: which files, and how many distinct bytes so far.
//!
//! Owns the bins. What must always hold: each access is in exactly one cell of the grid, the cumulative bytes never
//! fall and end at the distinct bytes of the trace. The size does not depend on the number of accesses.

use serde::Serialize;

/// Bins of time.
pub const COLUMNS: usize = 450;
/// Most rows of the grid: with more files, neighbours share a row.
pub const MAX_ROWS: usize = 160;

/// What the timeline needs to know of one access.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// When, nanoseconds since the start.
    pub t_ns: u64,
    /// Which file: an index into the order given to [`Timeline::new`].
    pub file: usize,
    /// Bytes that nobody had asked for before.
    pub new_bytes: u64,
}

/// Accesses by bins of time and rows of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// What the bins cover: from the start to here, nanoseconds.
    pub span_ns: u64,
    /// Distinct bytes read until the end of each bin.
    pub cumulative_bytes: Vec<u64>,
    /// Number of rows of the grid.
    #[serde(skip)]
    pub rows: usize,
    /// Number of accesses in each cell, row by row, [`COLUMNS`] each.
    #[serde(skip)]
    pub cells: Vec<u64>,
}

/// The row of the file at `place` of `files`.
pub fn row_of(place: usize, files: usize) -> usize {
    if files <= MAX_ROWS { place } else { place * MAX_ROWS / files }
}

impl Timeline {
    /// Bins the events. `places` has the place of each file in the order of the rows; an event of a file that is not
    /// in it, or later than `span_ns`, counts in the last row, the last bin.
    pub fn new(events: &[Event], places: &[usize], span_ns: u64) -> Self {
        let rows = places.len().clamp(usize::from(!events.is_empty()), MAX_ROWS);
        let mut cells = vec![0u64; rows * COLUMNS];
        let mut cumulative_bytes = vec![0u64; COLUMNS];
        for event in events {
            let column = column_of(event.t_ns, span_ns);
            let place = places.get(event.file).copied().unwrap_or(usize::MAX / MAX_ROWS);
            let row = row_of(place, places.len()).min(rows - 1);
            cells[row * COLUMNS + column] += 1;
            cumulative_bytes[column] = cumulative_bytes[column].saturating_add(event.new_bytes);
        }
        let mut sum = 0u64;
        for bytes in &mut cumulative_bytes {
            sum = sum.saturating_add(*bytes);
            *bytes = sum;
        }
        Self { span_ns, cumulative_bytes, rows, cells }
    }

    /// One row of the grid.
    pub fn row(&self, row: usize) -> &[u64] {
        self.cells.get(row * COLUMNS..(row + 1) * COLUMNS).unwrap_or_default()
    }

    /// The end of a bin, nanoseconds since the start.
    pub fn end_of(&self, column: usize) -> u64 {
        let end = (u128::from(self.span_ns) * (column as u128 + 1)) / COLUMNS as u128;
        u64::try_from(end).unwrap_or(u64::MAX)
    }
}

/// The bin of a time.
fn column_of(t_ns: u64, span_ns: u64) -> usize {
    let column = u128::from(t_ns) * COLUMNS as u128 / u128::from(span_ns.max(1));
    usize::try_from(column).unwrap_or(COLUMNS).min(COLUMNS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_access_is_in_one_cell_and_bytes_only_grow(
            raw in prop::collection::vec((any::<u64>(), 0usize..400, any::<u32>()), 0..200),
            files in 0usize..400,
            shift in 0u32..64,
        ) {
            let events: Vec<Event> = raw.iter()
                .map(|&(t, file, new)| Event { t_ns: t >> shift, file, new_bytes: u64::from(new) })
                .collect();
            let places: Vec<usize> = (0..files).rev().collect();
            let span = events.iter().map(|event| event.t_ns).max().unwrap_or(0);
            let timeline = Timeline::new(&events, &places, span);
            prop_assert_eq!(timeline.cells.iter().sum::<u64>(), events.len() as u64);
            prop_assert_eq!(timeline.cells.len(), timeline.rows * COLUMNS);
            prop_assert!(timeline.rows <= MAX_ROWS);
            prop_assert!(timeline.cumulative_bytes.is_sorted());
            let bytes: u64 = events.iter().map(|event| event.new_bytes).sum();
            prop_assert_eq!(timeline.cumulative_bytes.last(), Some(&bytes));
            for event in events.iter().filter(|event| event.file < files) {
                let row = row_of(places[event.file], files);
                prop_assert!(timeline.row(row)[column_of(event.t_ns, span)] > 0);
            }
            prop_assert!(timeline.end_of(COLUMNS - 1) == span);
        }
    }
}
