//! The memory oracle of all fuzz targets: an allocator that counts.
//!
//! Owns the count. What must always hold: it is registered before the first input.

use peak_alloc::PeakAlloc;
use soci_core::fuzz::Memory;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Lets targets break when a decoder takes more memory than its budget.
pub fn count_memory() {
    soci_core::fuzz::count_memory(Memory {
        now: || MEMORY.current_usage(),
        most: || MEMORY.peak_usage(),
        reset: || MEMORY.reset_peak_usage(),
    });
}
