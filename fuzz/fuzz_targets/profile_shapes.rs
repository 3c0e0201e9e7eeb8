//! Looks for bytes that break the promise of [`planner::fuzz::profile_shapes`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: soci_fuzz::count_memory(), |bytes: &[u8]| planner::fuzz::profile_shapes(bytes));
