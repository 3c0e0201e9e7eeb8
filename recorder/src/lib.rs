//! Observe: what a workload reads of its image, and when.
//!
//! * [`rootfs`] unpacks an image's layers once each and mounts overlays of them.
//! * [`workload`] runs a command on a root file system as an OCI runtime would.
//! * [`capture`] sees what it reads; [`resolve`] finds the layer of each path.
//! * [`stage`] chooses the engine and mounts the root file system that goes with it.
//! * [`directory`] does the same for a directory that is no image.
//! * [`container`] understands containers that somebody else starts.
//! * [`until`] knows when a recording is over; [`session`] is one recording, from start to sealed trace.
//!
//! What is decided of a trace is the planner's.
//!
//! A library without terminal and environment: it prints nothing, installs no signal handlers and reads no variables.
//! Whatever it mounts or starts is gone when the owning value is dropped.

pub mod capture;
pub mod container;
pub mod directory;
pub mod resolve;
pub mod rootfs;
pub mod session;
pub mod stage;
pub mod until;
pub mod workload;
