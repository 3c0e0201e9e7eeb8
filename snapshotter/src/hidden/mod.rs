//! One hidden FUSE connection for all layers, whose server may be killed at any moment.
mod answer;
mod channel;
mod connection;
mod device;
mod dispatch;
mod forest;
mod helper;
pub mod holder;
mod ids;
mod journal;
mod keeper;
mod mount;
mod reply;
mod serve;
mod tree;
mod waiting;
mod wire;

pub use answer::{Terms, Timeouts};
pub use connection::{Connection, HiddenError, Options};
pub use device::Notifier;
pub use helper::{Helper, HelperError, Work, perform};
pub use ids::{NodeId, Slot};
pub use journal::JournalError;
pub use keeper::{KeepError, Keeper, Kept};
pub use reply::Reply;
pub use tree::{Attr, Name, Totals, Tree};
