//! Packages as their users have them: installed, used and removed in roots of their own. `cargo xtask test --tier packages` makes
//! what they need (`SOCI_DIST`, `SOCI_NODE_ROOT`); they need root.
//!
//! Modules of [`shipped`] need the static programs of both architectures, which take ten minutes to compile (`--shipped`).

mod bytes;
mod chart;
mod debian;
mod made;
mod node;
mod pod;
mod shipped;
