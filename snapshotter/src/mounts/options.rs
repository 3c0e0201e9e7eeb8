//! How layers are mounted, and who keeps the connection. Pure values.

use std::path::PathBuf;
use std::time::Duration;

use crate::hidden::helper::Program;

/// How a layer is mounted.
#[derive(Clone, Copy, Debug)]
pub struct FuseOptions {
    /// How long the kernel keeps attributes.
    pub attr_timeout: Duration,
    /// How long the kernel keeps names.
    pub entry_timeout: Duration,
    /// How long the kernel keeps the absence of names.
    pub negative_timeout: Duration,
    /// Threads that read the kernel's requests. They never wait for the network.
    pub threads: usize,
    /// Bytes that the kernel reads ahead at most. Read-ahead that runs into a span which is not there downloads it, so
    /// one page is the default: 64 KiB move a fifth more of a Python image, and a start with prefetch takes a third
    /// longer at 100 Mbit/s.
    pub read_ahead: u32,
    /// Let the kernel answer for names and attributes by itself, from an EROFS image, where it can (Linux 6.12 or later).
    pub erofs: bool,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self {
            attr_timeout: Duration::from_secs(1),
            entry_timeout: Duration::from_secs(1),
            negative_timeout: Duration::from_secs(1),
            threads: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4),
            read_ahead: 4 << 10,
            erofs: true,
        }
    }
}

/// What outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: mounts end with it.
    Nothing,
    /// All mounts: a holder process keeps the connection. Without a server for so long, readers get errors.
    Mounts {
        /// How long readers wait for the next server.
        abort_after: Duration,
    },
}

/// What the mounts of a process are made of.
#[derive(Clone, Debug)]
pub struct MountsOptions {
    /// The daemon's directory, where only root gets: the hidden mount and the holder's socket are there.
    pub root: PathBuf,
    /// The program that runs as a helper: words are added behind its own.
    pub program: Program,
    /// What outlives the process.
    pub keep: Keep,
    /// How layers are mounted.
    pub fuse: FuseOptions,
}
