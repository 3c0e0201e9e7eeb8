//! What the process counts, and how operators see it: Prometheus text over HTTP.
//!
//! [`stats`] has the counters of the data plane, to which every room adds, and [`tally`] those of one layer; [`histogram`] has times;
//! [`defs`] is the one list of metrics, [`text`] writes it; `http` listens.

mod def;
pub mod defs;
pub mod histogram;
mod http;
pub mod series;
pub mod stats;
pub mod tally;
pub mod text;
mod upstream;

pub use http::{Listener, MetricsError, serve};
