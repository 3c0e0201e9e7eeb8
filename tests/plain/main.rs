//! The tests that any user can run: the built programs on images on disk, and parts of the product against a registry with faults.
//!
//! One program for all of them, because linking it is most of what a test costs. Each module is one subject.

mod arrows;
mod circles;
mod cli;
mod cli_beside;
mod cli_docs;
mod cli_json;
mod cli_output;
mod cli_pack;
mod cli_pipes;
mod cli_plan;
mod cli_plan_flags;
mod cli_profile;
mod cli_push;
mod cli_record;
mod cli_registry;
mod cli_simulate;
mod cli_sockets;
mod cli_store;
mod cli_trace;
mod cli_trace_tools;
mod cli_words;
mod config_check;
mod convert;
#[cfg(feature = "shared")]
mod interop_shared;
#[cfg(feature = "shared")]
mod interop_shared_index;
mod log_words;
mod metrics_docs;
mod model;
mod node_advice;
mod node_choice;
mod node_fine;
mod node_fine_faults;
mod node_packs;
mod node_packs_hostile;
mod node_packs_lies;
mod node_packs_races;
mod node_small_layers;
mod registry_auth;
mod registry_client;
mod registry_faults;
mod registry_hedge;
mod registry_matrix;
mod registry_mirrors;
mod registry_pins;
mod registry_push;
mod report;
mod span_faults;
mod span_hosts;
mod span_packs;
