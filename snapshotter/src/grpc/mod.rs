//! The gRPC face: containerd's snapshots service.
//!
//! Only translates. [`crate::snapshot`] decides.

mod error;
mod snapshots;

pub use snapshots::Service;
