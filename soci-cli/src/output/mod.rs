//! How results look: tables, JSON, durations, progress. Nothing here decides what is shown.

#[macro_use]
pub(crate) mod stream;

pub(crate) mod duration;
pub(crate) mod json;
pub(crate) mod place;
pub(crate) mod progress;
pub(crate) mod scratch;
pub(crate) mod table;
