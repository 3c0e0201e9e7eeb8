//! Keeps glibc from loading plugins into a program that is linked with it statically (`cargo xtask dist`).
//!
//! For host names and users glibc opens what `/etc/nsswitch.conf` names: `libnss_resolve.so.2` and the like, and with them the node's
//! own glibc. In a static program that is a second, other glibc, which may not load or may crash. What is built in needs none:
//! `/etc/hosts`, DNS as `/etc/resolv.conf` says (read again when it changes), `/etc/passwd`. Programs with libraries go on as before.

/// Has names resolved by what is built in. To be called first, before there are threads.
#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
#[allow(unsafe_code, reason = "__nss_configure_lookup is C's")]
pub fn keep_out() {
    use std::ffi::{c_char, c_int};
    unsafe extern "C" {
        /// glibc's <nss.h>.
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
    for (database, services) in [(c"hosts", c"files dns"), (c"passwd", c"files"), (c"group", c"files")] {
        // SAFETY: both are texts that end with a zero and live for ever. The function reads them, and changes its own table, which
        // nobody uses yet. If it fails, the node's configuration stays in force.
        unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}

/// Programs with libraries have the node's own plugins.
#[cfg(not(all(target_env = "gnu", target_feature = "crt-static")))]
pub const fn keep_out() {}
