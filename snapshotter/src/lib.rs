//! The daemon `soci-snapshotter-grpc`, room by room: a containerd proxy snapshotter that serves layers before they are
//! here.
//!
//! `grpc` translates containerd's requests; `snapshot` decides; `layer` makes one layer's bytes a mount and `unpack`
//! a directory; `config` and `metrics` are how operators talk to it;
//! `daemon` puts the rooms together, in directories that `private` closes to others. Below `layer`: `fs` answers what the kernel asks,
//! `erofs` writes its answers down for the kernel, `mounts` puts them on `hidden`, the one FUSE connection, which outlives the
//! process (docs/design/0008); `span` holds the bytes, `prefetch` fetches them; `away` is for what blocks and is dropped. No state lives here.

mod away;
pub mod config;
pub mod daemon;
mod erofs;
pub mod fs;
pub mod grpc;
pub mod hidden;
pub mod layer;
pub mod limits;
pub mod lock;
pub mod metrics;
mod mountinfo;
pub mod mounts;
pub mod prefetch;
mod private;
pub mod snapshot;
pub mod socket;
pub mod span;
pub mod stats;
pub mod storage;
pub mod takedown;
pub mod unpack;
