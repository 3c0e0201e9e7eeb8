//! The daemon `soci-snapshotter-grpc`, room by room: a containerd proxy snapshotter that serves layers before they are
//! here.
//!
//! `grpc` translates containerd's requests; `snapshot` decides; `node` has what a process has once, `image` finds out what an image is
//! served with, `pack` brings what its workload reads, `layer` makes one layer's bytes a mount and `unpack`
//! a directory; `config` and `metrics` are how operators talk to it;
//! `daemon` puts the rooms together, in directories that `private` closes to others, and `housekeeping` keeps the disk as `storage`
//! decides. Below `layer`: `fs` answers what the kernel asks,
//! `erofs` writes its answers down for the kernel, `mounts` puts them on `hidden`, the one FUSE connection, which outlives the
//! process (docs/design/0008); `span` holds the bytes, `prefetch` fetches them, both behind `doors`, so that a simulation can order what they do;
//! `away` is for what blocks and is dropped. No state lives here.

mod away;
mod blocking;
pub mod config;
pub mod daemon;
mod doors;
mod erofs;
pub mod fs;
pub mod grpc;
pub mod hidden;
mod housekeeping;
pub mod image;
pub mod layer;
pub mod limits;
pub mod lock;
pub mod metrics;
mod mountinfo;
pub mod mounts;
pub mod node;
pub mod pack;
pub mod prefetch;
mod private;
#[cfg(test)]
mod simulation;
pub mod snapshot;
pub mod socket;
pub mod span;
pub mod stats;
pub mod storage;
pub mod takedown;
pub mod unpack;
mod users;
