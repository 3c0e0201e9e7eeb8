//! The fuzz targets over the bytes that the fuzzer kept: what was found once stays found without it.

use std::fs;
use std::path::Path;

use peak_alloc::PeakAlloc;
use soci_core::fuzz::{Memory, TARGETS, count_memory};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

#[test]
fn the_kept_corpora_break_no_promise() {
    count_memory(Memory {
        now: || MEMORY.current_usage(),
        most: || MEMORY.peak_usage(),
        reset: || MEMORY.reset_peak_usage(),
    });
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in TARGETS {
        let mut inputs: Vec<_> =
            fs::read_dir(corpora.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(inputs.len() >= 3, "{name} has hardly any corpus");
        let mut size = 0;
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            size += bytes.len();
            eprintln!("{}", input.display());
            target(&bytes);
            if name.ends_with("_shapes") {
                continue;
            }
            // Prefixes too: most damage that is met is a cut.
            for cut in [0, 1, bytes.len() / 3, bytes.len().saturating_sub(1)] {
                target(&bytes[..cut.min(bytes.len())]);
            }
        }
        assert!(size < 50_000, "the corpus of {name} has {size} bytes");
    }
}
