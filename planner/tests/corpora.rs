//! The fuzz targets of this crate over the bytes that the fuzzer kept, and documents that are made to cost a lot.

use std::path::Path;

use peak_alloc::PeakAlloc;
use planner::fuzz::{TARGETS, profile_read};
use soci_core::fuzz::{Memory, count_memory, replay};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fn count() {
    count_memory(Memory {
        now: || MEMORY.current_usage(),
        most: || MEMORY.peak_usage(),
        reset: || MEMORY.reset_peak_usage(),
    });
}

/// One test, because memory is that of the whole program.
#[test]
fn no_document_costs_more_than_its_budget() {
    count();
    replay(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus"), &TARGETS);
    let head = r#"{"schema":1,"image":{"reference":""},"runs":[],"files":["#;
    let file = r#"{"path":"a","ranges":["#;
    let with = |piece: &str, times: usize, end: &str| format!("{head}{file}{}{end}", piece.repeat(times));
    for text in [
        // Ranges, numbers, files and nesting without end; all are below the longest document.
        with("[0,1,0,0,0],", 2_000_000, "[]]}]}"),
        with("[],", 4_000_000, "[]]}]}"),
        with("[0,", 60, ""),
        format!("{head}{file}[{}0]]}}]}}", "0,".repeat(8_000_000)),
        format!("{head}{}{file}]}}]}}", r#"{"path":"","ranges":[]},"#.repeat(500_000)),
        format!("{}{}", r#"{"x":"#.repeat(100_000), "1"),
        format!("{{\"x\":[{}1]}}", "1,".repeat(8_000_000)),
    ] {
        profile_read(text.as_bytes());
        let frame = zstd::bulk::compress(text.as_bytes(), 1).unwrap();
        profile_read(&frame);
    }
}
