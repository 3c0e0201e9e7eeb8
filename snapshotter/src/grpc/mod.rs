//! The gRPC face: containerd's snapshots service, and CRI's image service, which is passed on.
//!
//! Only translates. [`crate::snapshot`] decides.

mod error;
mod images;
mod pull_image;
mod snapshots;

pub use images::ImageService;
pub use snapshots::Service;
