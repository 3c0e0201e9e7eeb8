//! Working-set packs: what is streamed of them, checked, written to the caches of their layers and given to the kernel, and which
//! of them a node may use.
//!
//! A pack on its way is owned by its task ([`stream`]). What must always hold: nothing of a pack is used before its digest was
//! checked, and whatever goes wrong, readers go on by themselves.

mod failure;
mod opening;
mod options;
mod source;
mod stream;
mod warm;

pub(crate) use failure::PackFailure;
pub use options::{Listed, PackOptions};
pub(crate) use source::PackSource;
pub(crate) use stream::{Opened, Target, bring};
