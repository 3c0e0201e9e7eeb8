//! Flags of INIT, both words as one. Pure.

pub(crate) const ASYNC_READ: u64 = 1;
pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
pub(crate) const NO_OPEN_SUPPORT: u64 = 1 << 17;
pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
pub(crate) const POSIX_ACL: u64 = 1 << 20;
pub(crate) const MAX_PAGES: u64 = 1 << 22;
pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
pub(crate) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
pub(crate) const INIT_EXT: u64 = 1 << 30;
/// Linux 6.9 on: requests that were read and not answered can be sent again.
pub(crate) const HAS_RESEND: u64 = 1 << 39;

/// What helps a read-only server of layers that never change. All of it is optional.
pub(super) const WANTED: u64 = ASYNC_READ
    | DO_READDIRPLUS
    | READDIRPLUS_AUTO
    | NO_OPEN_SUPPORT
    | PARALLEL_DIROPS
    | MAX_PAGES
    | CACHE_SYMLINKS
    | NO_OPENDIR_SUPPORT
    | INIT_EXT
    | HAS_RESEND;
