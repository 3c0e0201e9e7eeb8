//! containerd's gRPC API as far as SOCI speaks it: the snapshots service for both ends; images, content and leases for
//! reading images out of containerd and keeping artifacts beside them ([`Containerd`]), with snapshots and diffs for pulling one
//! ([`Unpacking`]); and for who records containers,
//! what there is to ask about them ([`Containers`]).
//!
//! `gen/` is made from `protos/` by `cargo xtask codegen` and is committed, so that a build needs neither `protoc` nor the
//! network. The server trait ([`snapshots::snapshots_server::Snapshots`]) is implemented by the snapshotter; the client is
//! for everyone who asks it for snapshots ([`snapshots_client`]).
//!
//! State: a [`Containerd`] owns its connection and its lease; all else holds none.

mod client;
mod content;
mod images;
mod runtime;
mod session;
mod unpack;

pub use content::BlobStream;
pub use images::ImageRecord;
pub use session::{Containerd, ContainerdError};
pub use unpack::{SnapshotLabels, Unpacking};

pub use client::{
    ConnectError, NAMESPACE_HEADER, SnapshotsClient, Unreachable, lazy_channel, reason, snapshots_client,
};
pub use runtime::{ContainerRecord, Containers, RuntimeError, Task, TaskEvent, TaskEvents};

#[allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::all,
    clippy::pedantic,
    reason = "generated from containerd's .proto files"
)]
#[rustfmt::skip]
#[path = "gen/mod.rs"]
mod generated;

use generated::containerd::services::{
    content::v1 as content_api, diff::v1 as diff_api, images::v1 as images_api, leases::v1 as leases_api,
};

/// `containerd.services.snapshots.v1`: messages, client and server trait of the snapshots service.
pub use generated::containerd::services::snapshots::v1 as snapshots;
/// `containerd.types`: messages that several containerd services share.
pub use generated::containerd::types;
