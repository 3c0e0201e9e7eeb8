//! What must hold for any bytes at all: the bodies of the fuzz targets in `fuzz/`, one function for each.
//!
//! Only built with the feature `testing`. Owns the meter of [`count_memory`]. Each function takes hostile bytes and panics when
//! a promise of the crate is broken; the fuzzer looks for such bytes, and `tests/corpora.rs` replays those that it kept. The
//! `_shapes` targets take their bytes as a seed for an input that may be large: pieces that are repeated, shared and nested.

mod documents;
mod layers;
mod packs;
mod tables;
mod traces;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

pub use documents::{index_json, json_indent, json_shapes, prefetch_json};
pub use layers::{gzip_extract, gzip_shapes, tar_entries, zinfo_decode};
pub use packs::{pack_head, pack_shapes};
pub use tables::{fine_bundle, fine_table, ztoc_open, ztoc_shapes};
pub use traces::{trace_read, trace_shapes};

use rustix::time::{ClockId, clock_gettime};

use crate::budget::{MEMORY_FREE, MEMORY_RATIO};
use crate::registry::parse_content_range;

/// Most plain bytes that a target makes of its input, so that no input takes long.
const MOST_PLAIN: u64 = 4 << 20;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All targets by name: the names of the programs in `fuzz/fuzz_targets` and of the corpora.
pub const TARGETS: [(&str, Target); 17] = [
    ("content_range", content_range),
    ("fine_bundle", fine_bundle),
    ("fine_table", fine_table),
    ("gzip_extract", gzip_extract),
    ("gzip_shapes", gzip_shapes),
    ("index_json", index_json),
    ("json_indent", json_indent),
    ("json_shapes", json_shapes),
    ("pack_head", pack_head),
    ("pack_shapes", pack_shapes),
    ("prefetch_json", prefetch_json),
    ("tar_entries", tar_entries),
    ("trace_read", trace_read),
    ("trace_shapes", trace_shapes),
    ("zinfo_decode", zinfo_decode),
    ("ztoc_open", ztoc_open),
    ("ztoc_shapes", ztoc_shapes),
];

/// Memory that the program's allocator has given out, bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Now.
    pub now: fn() -> usize,
    /// At most since the last call of [`Memory::reset`].
    pub most: fn() -> usize,
    /// Forgets the most.
    pub reset: fn(),
}

static METER: OnceLock<Memory> = OnceLock::new();

/// Lets targets break when a decoder takes more memory than its budget. The first meter counts.
pub fn count_memory(meter: Memory) {
    let _ = METER.set(meter);
}

/// Seconds of processor time for any input, and for each MiB of it: with sanitizers and without optimisation.
const SECONDS: (i64, i64) = (10, 2);

/// Decodes an input of `length` bytes, which are there already, within the memory and the time that it pays for.
///
/// # Panics
/// When it takes more.
pub fn bounded<T>(length: usize, decode: impl FnOnce() -> T) -> T {
    let Some(meter) = METER.get() else { return decode() };
    let before = (meter.now)();
    (meter.reset)();
    let seconds = || clock_gettime(ClockId::ThreadCPUTime).tv_sec;
    let began = seconds();
    let decoded = decode();
    let took = seconds() - began;
    assert!(took <= SECONDS.0 + SECONDS.1 * (length >> 20) as i64, "{took} s for an input of {length}");
    let taken = (meter.most)().saturating_sub(before) as u64;
    let budget = length as u64 * MEMORY_RATIO + MEMORY_FREE;
    assert!(taken <= budget, "{taken} bytes of memory for an input of {length}, {budget} are its budget");
    decoded
}

/// Bytes that decide how an input is made; behind their end all are 0.
#[derive(Debug)]
pub struct Seed<'a>(pub &'a [u8]);

impl Seed<'_> {
    /// The next one.
    pub fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    /// The next one, as yes or no.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Eight of them.
    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// Below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        let number = usize::from(self.byte()) | usize::from(self.byte()) << 8;
        // Two bytes reach 16 bits; further ones are used for what is larger.
        let number = if end > 1 << 16 { number | usize::from(self.byte()) << 16 } else { number };
        number % end.max(1)
    }

    /// A number of repetitions: nearly all are small, so that many inputs are tried; a few are about a million.
    pub fn count(&mut self) -> usize {
        let (bits, byte) = (self.byte(), self.byte());
        usize::from(byte) << if bits >= 240 { bits % 13 } else { bits % 7 }
    }
}

/// Runs targets over the inputs that the fuzzer kept for them, in folders of their names below `corpora`.
///
/// # Panics
/// When a promise is broken, or a corpus is too small or too large to be kept.
pub fn replay(corpora: &Path, targets: &[(&str, Target)]) {
    for (name, target) in targets {
        let inputs = fs::read_dir(corpora.join(name)).expect("each target has a corpus");
        let mut inputs: Vec<_> = inputs.map(|entry| entry.expect("the corpus can be read").path()).collect();
        inputs.sort();
        assert!(inputs.len() >= 3, "{name} has hardly any corpus");
        let mut size = 0;
        for input in inputs {
            let bytes = fs::read(&input).expect("the corpus can be read");
            size += bytes.len();
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

/// What a server says about the part that it sent is a part that is not empty and within its total, or nothing.
pub fn content_range(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some((range, total)) = parse_content_range(text) {
        assert!(!range.is_empty() && total.is_none_or(|total| range.end <= total));
    }
}
