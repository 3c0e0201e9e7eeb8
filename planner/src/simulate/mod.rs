//! Predict a start: how long it takes over a link, how many bytes and requests, for each way in which an image can be served.
//!
//! A [`Case`] is a workload (a profile) and its image; [`predict`] replays it. The workload works between its needs for as long as it
//! did when it was recorded, and waits for each byte that is missing; beside it the snapshotter's rules are played: readers first, what is
//! ahead of them in the order of need, within a window ([`start`](self)). [`parameters`](Node) says what the model knows of machine and
//! link. docs/planning.md has how far off it is.
//!
//! Pure: the same case, link and parameters give the same prediction.

mod advice;
mod bound;
mod chart;
mod condition;
mod engine;
mod full;
mod network;
mod pack;
mod parameters;
mod pool;
mod predict;
mod prediction;
mod sizes;
mod spans;
mod start;
mod table;
#[cfg(test)]
mod tests;
mod walks;
mod workload;

pub use advice::{Advice, Comparison};
pub use chart::chart;
pub use condition::Condition;
pub use parameters::{Layout, Link, Node};
pub use predict::predict;
pub use prediction::{Mode, Outcome};
pub use sizes::{CANDIDATES, Tried, span_sizes};
pub use table::{LINKS, Row, table};
pub use workload::{Case, CaseError};
