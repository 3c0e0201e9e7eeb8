//! Hostile inputs: each is refused with the name of the limit that it is over, within a memory that its length pays for.
//!
//! Memory is what the allocator gave out at most, counted by `peak_alloc`. Inputs are made by the tests, so that they are short
//! to read: what once cost minutes or gigabytes.

mod blobs;
mod documents;
mod packs;
mod tables;
mod traces;

use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use peak_alloc::PeakAlloc;
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Measuring is for one at a time.
static ONE: Mutex<()> = Mutex::new(());

/// What everything here stays below, whatever the length of the input.
const MOST: usize = 256 << 20;

/// Processor time that a refusal may take: 2 s as the product is built, far more without optimisation. What is looked for
/// took minutes.
const SOON: Duration = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 2 });

/// Where limits have to be explained.
const LIMITS: &str = include_str!("../../../docs/threat-model.md");

/// Memory that `work` takes, at most and on top of its input, which has `length` bytes and is there already.
fn measured<T>(length: usize, work: impl FnOnce() -> T) -> T {
    let (before, began) = (MEMORY.current_usage(), processor_time());
    MEMORY.reset_peak_usage();
    let done = work();
    let (took, memory) = (processor_time().saturating_sub(began), MEMORY.peak_usage().saturating_sub(before));
    let allowed = (16 * length + (64 << 20)).min(MOST);
    assert!(memory <= allowed, "{} KiB of memory for an input of {} KiB", memory >> 10, length >> 10);
    assert!(took < SOON, "{took:?} for an input of {} KiB", length >> 10);
    done
}

/// Time that the processors have worked for this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// `open` refuses what `make` made, because of that limit.
fn refused<T, E: Error>(
    limit: &str,
    make: impl FnOnce() -> Vec<u8>,
    open: impl FnOnce(&[u8]) -> Result<T, E>,
) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let input = make();
    let error = measured(input.len(), || open(&input).err()).expect("it is refused");
    names(limit, &error);
}

/// The error, or a cause of it, names the limit, and the documentation explains it.
fn names(limit: &str, error: &dyn Error) {
    let said = soci_core::error::chain(error);
    assert!(said.contains(&format!("`{limit}`")), "{said}");
    assert!(LIMITS.contains(&format!("| `{limit}` |")), "docs/threat-model.md does not explain {limit}");
}
