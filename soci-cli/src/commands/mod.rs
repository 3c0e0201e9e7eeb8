//! The commands, one file each: arguments, what they do, what they print.

mod build_args;
pub(crate) mod completion;
pub(crate) mod convert;
pub(crate) mod create;
pub(crate) mod doctor;
mod engine;
pub(crate) mod index;
pub(crate) mod man;
pub(crate) mod prefetch;
pub(crate) mod push;
mod push_companions;
mod push_image;
pub(crate) mod rebuild_db;
pub(crate) mod record;
mod record_container;
mod record_rootfs;
mod record_runs;
pub(crate) mod report;
pub(crate) mod run;
mod summary;
pub(crate) mod tied;
pub(crate) mod trace;
mod unpack;
mod workload_args;
pub(crate) mod workload_init;
pub(crate) mod ztoc;
