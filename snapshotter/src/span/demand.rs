//! Whoever fetches the spans that readers want: the trait [`Demand`]. The engine implements it.

use std::fmt::Debug;
use std::sync::Arc;

use super::SpanManager;
use super::room::Room;
use super::spare::Spare;
use super::state::Claim;

/// Fetches spans for readers. No call waits.
pub trait Demand: Debug + Send + Sync {
    /// Begins to fetch claimed spans, before anything that nobody waits for. Each claim ends: with the span, or with an error.
    fn demand(&self, manager: &Arc<SpanManager>, claims: Vec<Claim>);

    /// Nobody uses the layer any more: what is queued for it is dropped.
    fn forget(&self, manager: &Arc<SpanManager>);

    /// Bytes that could not be written to disk.
    fn spare(&self) -> &Spare;

    /// Room on the disk.
    fn room(&self) -> &Arc<Room>;
}
