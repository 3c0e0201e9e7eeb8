//! The fuzz targets over the bytes that the fuzzer kept: what was found once stays found without it.

use std::path::Path;

use peak_alloc::PeakAlloc;
use soci_core::fuzz::{Memory, TARGETS, count_memory, replay};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

#[test]
fn the_kept_corpora_break_no_promise() {
    count_memory(Memory {
        now: || MEMORY.current_usage(),
        most: || MEMORY.peak_usage(),
        reset: || MEMORY.reset_peak_usage(),
    });
    replay(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus"), &TARGETS);
}
