//! The commands, one file each: arguments, what they do, what they print.

mod build_args;
pub(crate) mod convert;
pub(crate) mod create;
mod engine;
pub(crate) mod index;
pub(crate) mod prefetch;
pub(crate) mod push;
mod push_image;
pub(crate) mod rebuild_db;
pub(crate) mod record;
mod record_runs;
pub(crate) mod report;
pub(crate) mod run;
mod summary;
pub(crate) mod tied;
pub(crate) mod trace;
mod workload_args;
pub(crate) mod workload_init;
pub(crate) mod ztoc;
