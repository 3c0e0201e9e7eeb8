//! What the process counts, and how operators see it: Prometheus text over HTTP.
//!
//! [`stats`] has the counters of the data plane, to which every room adds; [`defs`] is the one list of metrics; `http` serves it.

pub mod defs;
mod http;
pub mod stats;

pub use http::{Listener, MetricsError, serve};
