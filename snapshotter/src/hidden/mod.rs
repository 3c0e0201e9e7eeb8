//! One hidden FUSE connection for all layers, whose server may be killed at any moment and whose successor goes on without
//! anybody noticing (docs/design/0008-one-connection.md).
//!
//! The file system is mounted once, below the daemon's root, where no container sees it. Its root directory has one name for
//! each live layer: a directory tree, or one file that is the layer's EROFS image. Both are a [`Tree`].
//!
//! ```text
//! kernel ── /dev/fuse ── serve (2 to 4 readers) ── dispatch ── Tree::read(.., Reply) ── answer later, from any thread
//!                │                                    │
//!           holder, systemd ◄── keeper          forest, journal: which layer has which slot
//! ```
//!
//! How the daemon is to use it:
//! 1. Get a [`Keeper`]: a [`Systemd`] if the unit has a descriptor store, else [`holder::Holder::connect_or_start`].
//! 2. [`Connection::open`] takes over what an earlier process has left, or mounts a new file system.
//! 3. [`Connection::attach`] each layer under a name that means the same to a successor. After a take-over,
//!    [`Connection::awaited`] says which layers the kernel knows; their readers wait until they are attached or detached.
//! 4. Mount images by [`Connection::mount_image`], or use [`Connection::path`] as a lower directory of overlayfs.
//! 5. Before an orderly end, [`Connection::leave`]. A kill needs nothing.
//!
//! Who owns state: a [`Connection`] has all that this process has. What outlives it is the kernel's (mounts, requests) and the
//! keeper's (two descriptors). `wire`, `answer` and `ids` are pure; `journal` is the only file with `unsafe`.
//!
//! What must always hold:
//! * Between any two instructions the process may be killed, and no reader gets an error or a wrong byte.
//! * The serving process never opens, lists, mounts or closes anything on its own mount; helper processes do.
//! * A reader thread never waits for content. Answers come from resident memory.
//! * Nobody waits for ever: without a server for long enough, readers get errors; a dying reader ends its request.
//! * Nothing is mounted, unmounted or joined on drop.

mod answer;
mod channel;
mod connection;
mod device;
mod dispatch;
mod dying;
mod flags;
mod forest;
pub mod helper;
pub mod holder;
mod ids;
mod journal;
mod keeper;
mod mount;
mod nobody;
mod reply;
mod serve;
mod systemd;
mod tree;
mod values;
mod waiting;
mod wire;

pub use answer::{Terms, Timeouts};
pub use connection::{Connection, HiddenError, Options};
pub use device::Notifier;
pub use dying::is_dying;
pub use helper::{HelperError, Helpers};
pub use ids::{NodeId, Slot};
pub use journal::JournalError;
pub use keeper::{KeepError, Keeper, Kept};
pub use nobody::Nobody;
pub use reply::Reply;
pub use systemd::Systemd;
pub use tree::Tree;
pub use values::{Attr, Name, Totals};
