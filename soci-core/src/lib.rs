//! SOCI formats and their I/O: what a SOCI thing is.
//!
//! A library without terminal, environment or home directory: callers decide about all three. State is owned by
//! the modules named below. Invariant: bytes that come from a registry are checked before anything is derived
//! from them.

pub mod any_digest;
pub mod budget;
mod compression;
#[cfg(feature = "containerd")]
pub mod containerd;
#[cfg(not(feature = "containerd"))]
#[path = "containerd/absent.rs"]
pub mod containerd;
pub mod convert;
pub mod coverage;
pub mod digest;
pub mod duration;
pub mod error;
pub mod escape;
mod flat;
#[cfg(feature = "testing")]
pub mod fuzz;
pub mod image;
pub mod index;
pub mod json;
pub mod media_type;
pub mod pack;
mod parts;
pub mod plugins;
pub mod prefetch;
pub mod registry;
pub mod store;
pub mod tar;
#[cfg(feature = "testing")]
pub mod testing;
pub mod trace;
pub mod tree;
pub mod units;
pub mod unpack;
mod varint;
pub mod ztoc;
