//! How results look: tables, JSON, durations. Nothing here decides what is shown.

pub(crate) mod duration;
pub(crate) mod json;
pub(crate) mod table;
