//! What the test tiers share. Each module owns one stand-in for the world outside, or one tool to look at it.

pub mod access;
pub mod browser;
pub mod companions;
pub mod container_lab;
pub mod containerd;
pub mod daemon;
pub mod disk_image;
pub mod docker_registry;
pub mod faults;
pub mod image;
pub mod layout;
pub mod machine;
pub mod node;
pub mod pack_lab;
pub mod patience;
pub mod proxy;
pub mod pull;
pub mod recording;
pub mod registry;
pub mod replay;
pub mod slow_disk;
pub mod soci;
pub mod tls;
pub mod tree;
pub mod truth;
pub mod way;
