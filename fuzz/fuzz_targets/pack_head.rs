//! Looks for bytes that break the promise of [`soci_core::fuzz::pack_head`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: soci_fuzz::count_memory(), |bytes: &[u8]| soci_core::fuzz::pack_head(bytes));
