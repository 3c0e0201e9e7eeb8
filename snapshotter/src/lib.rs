//! The daemon `soci-snapshotter-grpc`, room by room: a containerd proxy snapshotter that serves layers before they are
//! here.
//!
//! `grpc` translates containerd's requests, and a kubelet's; `keychain` has the credentials; `snapshot` decides; `node` has what a process has once, `image` finds out what an image is
//! served with, `pack` brings what its workload reads, `layer` makes one layer's bytes a mount and `unpack`
//! a directory; `config` and `telemetry` are how operators talk to it;
//! `daemon` puts the rooms together, in directories that `private` closes to others, and `housekeeping` keeps the disk as `storage`
//! decides. Below `layer`: `fs` answers what the kernel asks,
//! `erofs` writes its answers down for the kernel, `mounts` puts them on `hidden`, the one FUSE connection, which outlives the
//! process (docs/design/0008); `cache` holds the bytes; `span` knows which bytes are on their way and who waits for them; `engine`
//! fetches. These three reach tasks and threads by `doors`, so that a simulation can order what they do;
//! `away` is for what blocks and is dropped; `idmap` shows layers to user namespaces. No state lives here.

mod away;
mod blocking;
pub mod boot;
pub mod cache;
pub mod choice;
pub mod config;
pub mod daemon;
mod doors;
pub mod engine;
mod erofs;
pub mod fs;
pub mod grpc;
pub mod hidden;
mod housekeeping;
pub mod idmap;
pub mod image;
pub mod keychain;
pub mod layer;
pub mod limits;
pub mod lock;
mod mountinfo;
pub mod mounts;
pub mod node;
pub mod pack;
mod private;
#[cfg(test)]
mod simulation;
pub mod snapshot;
pub mod socket;
pub mod span;
pub mod starts;
pub mod status;
pub mod storage;
pub mod takedown;
pub mod telemetry;
pub mod unpack;
mod users;
