//! The tests that need root, /dev/fuse, overlayfs and namespaces, and those against a real containerd: one at a time.
//!
//! One program for all of them, because linking it is most of what a test costs. Each module is one subject.

mod conformance;
mod containerd;
mod containerd_api;
mod containerd_choice;
mod containerd_companions;
mod containerd_images;
mod containerd_kinds;
mod containerd_releases;
mod cri_keychain;
mod daemon_care;
mod daemon_cold;
mod daemon_containers;
mod daemon_deaths;
mod daemon_disk;
mod daemon_fairness;
mod daemon_hostile;
mod daemon_outage;
mod daemon_power;
mod daemon_prepare;
mod daemon_scale;
mod daemon_takedown;
mod doctor;
mod ebpf;
mod ebpf_exact;
mod ebpf_identity;
mod ebpf_refused;
mod erofs;
mod fuse;
#[cfg(feature = "shared")]
mod golden;
mod hidden;
mod implied;
#[cfg(feature = "shared")]
mod interop;
mod merge;
mod optimize;
mod pack_pages;
mod permissions;
mod record;
mod record_ends;
mod record_full;
mod record_process;
mod record_runs;
mod registry_mounts;
mod report;
mod run;
mod scopes;
mod slow_disk;
mod snapshotter;
mod status;
mod stops;
mod strace;
mod swap;
mod truth;
mod truth_containers;
mod unpack;
mod user_namespaces;
