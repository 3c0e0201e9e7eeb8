//! What the process counts, as Prometheus text over HTTP.
//!
//! [`defs`] is the one list of metrics; `http` serves it. The counters themselves belong to the rooms that count.

pub mod defs;
mod http;

pub use http::{Listener, MetricsError, serve};
