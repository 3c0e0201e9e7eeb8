//! Decide: what the start of a workload is served with.
//!
//! * [`plan`] turns a trace into what to fetch first; [`runs`] makes one trace of several runs.
//! * [`profile`] keeps what several runs needed, over builds.
//! * [`simulate`] predicts a start.
//! * [`report`] says what was seen.
//! * [`export`] writes traces for other tools, [`import`] makes traces of what other tools wrote.
//!
//! A library without privileges, terminal, network and environment.

pub mod export;
#[cfg(feature = "testing")]
pub mod fuzz;
pub mod import;
pub mod plan;
pub mod profile;
pub mod report;
pub mod runs;
pub mod simulate;
