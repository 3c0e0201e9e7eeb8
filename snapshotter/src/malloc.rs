//! How the C library's allocator is set for this process.
//!
//! Each thread of a mount has a buffer of 16 MiB, zeroed, of which it uses a few pages. As long as such a buffer comes from the
//! kernel by itself it is zero already and costs nothing. But the allocator, once it has been given one back, takes the next
//! from its own heap: then all of it is written with zeroes, for 4 ms and 16 MiB of memory, in each mount.

/// Sets it. Before threads are started, at best; it may be done twice.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code, reason = "mallopt is C's")]
pub(crate) fn tune() {
    /// Allocations of so many bytes and more are the kernel's. To set it is to stop the allocator from raising it.
    const FROM_THE_KERNEL: libc::c_int = 4 << 20;
    /// So many bytes at the end of a heap may be unused before they are given back.
    const UNUSED: libc::c_int = 8 << 20;
    // SAFETY: mallopt reads its two numbers and takes the allocator's lock; it may be called at any time. Unknown values are refused
    // by its result, and then all stays as it is.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, FROM_THE_KERNEL);
        libc::mallopt(libc::M_TRIM_THRESHOLD, UNUSED);
    }
}

/// Other C libraries do so anyway.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn tune() {}
