//! The kernel side of the recorder: programs on the page cache, on the life of processes, and on calls.
//!
//! Program list only. Each hook family has a file; [`filter`] says who is recorded, [`kernel`] reads the kernel's
//! structures, [`report`] owns the ring buffer and the counters. Nothing here decides what an access means.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod anomaly;
mod call;
mod exact;
mod exec;
mod filter;
mod folio;
mod given;
mod kernel;
mod mmap;
mod read;
mod report;
mod tree;

/// Never reached: the verifier admits no program that could panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends its tracing helpers to programs under its own licence only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
