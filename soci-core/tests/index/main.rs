//! Whole indexes of images that a test makes: layers of every kind, zstd, prefetch lists.
//!
//! One program, because all of them stand on [`indexed`].

mod contents;
mod fine;
mod indexed;
mod layer_kinds;
mod packs;
mod prefetch_lists;
mod zstd_layers;
