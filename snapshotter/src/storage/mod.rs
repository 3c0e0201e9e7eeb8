//! What is kept on disk, and when it goes: decisions only, on what they are told. Who carries them out is
//! [`crate::node::Node`], and when, [`crate::housekeeping`].
//!
//! Two reasons: nobody needs it any more ([`Sweeper`]), or there is too little room for it ([`Limits`]).

mod limits;
mod sweeper;

pub use limits::{Disk, Goal, Limits, Rounds};
pub use sweeper::{Needed, Sweeper, Swept};
