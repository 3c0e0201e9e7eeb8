//! Bytes of a trace file: shared by writer and reader, known to nobody else.
//!
//! ```text
//! file    = magic "SOCITRC\n"  version u16  flags u16  block*
//! block   = kind u8  length u32  crc32 u32 (over kind, length, payload)  payload[length]
//! kind    = 1 header (JSON, exactly one, first)   2 records   3 end (JSON, at most one, last)
//! records = deflate(record*)                        integers are LEB128 varints
//! record  = 1 path     shared  length  bytes        the next path id, from 0; its first `shared` bytes are those of
//!                                                   the path defined before
//!         | 2 process  pid  length  bytes(comm)     the next process id, from 0
//!         | 3 access   zigzag(t_ns - t_ns of the access before in this block, or 0)  phase + 4 * kind
//!                      path id  layer index + 1 or 0  zigzag(offset - end of the access of this path before, or 0)
//!                      length  process id  wait_ns
//! flags   = 1 kind 4 may occur: a file was opened, length 0
//! ```
//! Version 1, which is read too, has neither `deflate` nor `shared`, and the plain offset.
//!
//! Fixed-width integers are little-endian. A reader refuses another magic, version 0, a higher version and unknown flags (a
//! flag means "you cannot read this without knowing me"); unknown keys in the JSON blocks are ignored. Holds no state.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    sync::Arc,
};

use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use serde::{Deserialize, Serialize};

use crate::{
    budget::{Budget, MEMORY_FREE, MEMORY_RATIO, OverLimit},
    digest::Digest,
};

pub(super) const MAGIC: &[u8; 8] = b"SOCITRC\n";
/// Does a file that begins with these bytes claim to be a trace?
pub fn is_trace(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

pub(super) const VERSION: u16 = 2;
/// Accesses of kind [`AccessKind::Open`] may occur.
pub(super) const FLAG_OPENS: u16 = 1;
/// Flags this code understands.
pub(super) const KNOWN_FLAGS: u16 = FLAG_OPENS;
pub(super) const PREAMBLE_LEN: usize = 12;
/// Where the flags are in the file.
pub(super) const FLAGS_AT: u64 = 10;
pub(super) const FRAME_LEN: usize = 9;
/// Longest payload of a block, also inflated. The writer stays far below it.
pub(super) const MAX_BLOCK: usize = 8 << 20;
/// The writer closes a record block at this size, before it is deflated.
pub(super) const BLOCK_TARGET: usize = 32 << 10;
/// Longest path: the kernel's PATH_MAX.
pub(super) const MAX_PATH: usize = 4096;
/// Longest process name: the kernel's comm is 16, importers may know more.
pub(super) const MAX_COMM: usize = 256;

pub(super) const BLOCK_HEADER: u8 = 1;
pub(super) const BLOCK_RECORDS: u8 = 2;
pub(super) const BLOCK_END: u8 = 3;
pub(super) const RECORD_PATH: u64 = 1;
pub(super) const RECORD_PROCESS: u64 = 2;
pub(super) const RECORD_ACCESS: u64 = 3;

/// What was recorded and how: written before the first access.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The image as the user named it, or `dir:PATH` for a directory.
    pub image: String,
    /// Digest of the platform's image manifest; absent when a directory was recorded, not an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// The image's layers, lowest first; none of a directory. [`Access::layer`] indexes this list.
    pub layers: Vec<LayerRef>,
    /// Which capture engine recorded (`fuse`, ...).
    pub engine: String,
    /// The workload's command line.
    pub argv: Vec<String>,
    /// When the workload was started, RFC 3339 UTC. All times in the trace count from here.
    pub started_at: String,
    /// True when pages of the image may have been in memory before the start, so that reads of them are missing;
    /// absent when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<bool>,
    /// Whether the engine measures [`Access::wait_ns`]; absent when it does not say: see [`Header::measures_waits`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<bool>,
    /// True when the engine cannot see every need, so that no trace of it is complete.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

impl Header {
    /// Are the waits of this trace measurements? If not, they are 0 and mean nothing.
    pub fn measures_waits(&self) -> bool {
        self.waits.unwrap_or_else(|| !self.engine.starts_with("ebpf")) // which never did, and once did not say so
    }
}

/// One layer of the recorded image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRef {
    /// Digest of the compressed blob.
    pub digest: Digest,
    /// Size of the compressed blob in bytes.
    pub size: u64,
}

/// How the recording ended: the last block of a sealed trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Accesses that were seen but could not be kept. Above 0 the trace is incomplete.
    pub dropped: u64,
    /// Why the recording stopped.
    pub outcome: Outcome,
    /// When the workload became ready, ns since start; absent if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_ns: Option<u64>,
    /// When the recording stopped, ns since start.
    pub ended_ns: u64,
    /// The workload's exit status when it has ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Accesses to files that are not the image's, which were left out; absent when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<Outside>,
    /// Other names of files in the trace that have several (hard links), by the path under which the trace has them. Without
    /// leading slash, as text in the form of `soci trace dump`. Empty when not known, too.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<String, Vec<String>>,
}

/// Accesses to files that are not the image's, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outside {
    /// On a file system that has none of the image (bind mounts, tmpfs, /proc), or the recorder's own program.
    pub elsewhere: u64,
    /// Written by the workload: made, copied up to be changed, or renamed.
    pub written: u64,
    /// Deleted while it was still open.
    pub deleted: u64,
    /// None of these is known.
    pub unknown: u64,
}

impl Outside {
    /// All of them.
    pub fn total(&self) -> u64 {
        [self.elsewhere, self.written, self.deleted, self.unknown].into_iter().fold(0, u64::saturating_add)
    }

    /// Both counts together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            elsewhere: self.elsewhere.saturating_add(other.elsewhere),
            written: self.written.saturating_add(other.written),
            deleted: self.deleted.saturating_add(other.deleted),
            unknown: self.unknown.saturating_add(other.unknown),
        }
    }
}

/// Why a recording stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The readiness rule came true (and the tail, if any, is over).
    Ready,
    /// The workload ended by itself.
    Exited,
    /// A time limit passed before the workload was ready.
    TimedOut,
    /// The user stopped the recording.
    Interrupted,
}

/// Part of the run in which an access happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Before the workload's first instruction (runtime setup, exec of the entrypoint).
    Setup,
    /// From its first instruction until it is ready.
    Start,
    /// After it is ready.
    Tail,
}

/// How bytes were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessKind {
    /// A read call.
    Read,
    /// A page fault.
    Fault,
    /// A mapping of already cached pages around a fault.
    Map,
    /// The file was executed, or named as interpreter.
    Exec,
    /// The file was opened; no bytes.
    Open,
}

/// A process that touched the image.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// Process id in the recorder's pid namespace; 0 when unknown.
    pub pid: u32,
    /// The kernel's short name of it, at most 256 bytes.
    pub comm: Arc<[u8]>,
}

/// One observed use of bytes of an image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Nanoseconds since [`Header::started_at`].
    pub t_ns: u64,
    /// Part of the run.
    pub phase: Phase,
    /// How the bytes were asked for.
    pub kind: AccessKind,
    /// Path in the image, without a leading slash, at most 4096 bytes.
    pub path: Arc<[u8]>,
    /// Layer the file comes from, if the engine knows it.
    pub layer: Option<u32>,
    /// First byte.
    pub offset: u64,
    /// Number of bytes; 0 for [`AccessKind::Open`].
    pub len: u64,
    /// Who asked.
    pub process: Arc<Process>,
    /// How long the process waited for the bytes, nanoseconds; 0 when not measured ([`Header::measures_waits`]).
    pub wait_ns: u64,
}

/// What a trace may cost, by the bytes of it so far: a few bytes may say a long path, or many records that are alike.
#[derive(Debug)]
pub(super) struct Costs {
    tables: Budget,
    records: Budget,
}

impl Costs {
    /// Limit: memory for the paths and processes of a trace, of which each costs at least [`Self::ENTRY`].
    const TABLES: &str = "trace-tables";
    /// Limit: bytes of all records when they are inflated.
    const RECORDS: &str = "trace-records";
    /// Inflated bytes that are granted for each byte of the file. Recorders write blocks that deflate by 3 to 10.
    const INFLATE: u64 = 64;
    /// Inflated bytes that are granted however small the file is.
    const FREE: u64 = 16 << 20;
    /// Memory for the tables of however small a file; the rest is for a block and its records.
    const FREE_TABLES: u64 = MEMORY_FREE / 2;
    /// A path or a process in memory, without its text.
    const ENTRY: u64 = 128;

    /// Of a trace of which nothing was read or written yet.
    pub(super) fn new() -> Self {
        Self {
            tables: Budget::new(Self::TABLES, Self::FREE_TABLES),
            records: Budget::new(Self::RECORDS, Self::FREE),
        }
    }

    /// Of a block in the file, and of its records when they are inflated.
    pub(super) fn block(&mut self, stored: usize, inflated: usize) -> Result<(), OverLimit> {
        self.tables.add((stored as u64).saturating_mul(MEMORY_RATIO));
        self.records.add((stored as u64).saturating_mul(Self::INFLATE));
        self.records.spend(inflated as u64)
    }

    /// Of a path or a process with a name of `length` bytes.
    pub(super) fn entry(&mut self, length: usize) -> Result<(), OverLimit> {
        self.tables.spend(Self::ENTRY + length as u64)
    }
}

/// Why a trace cannot be written or read. A cut tail is not an error: see [`super::Tail`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be opened, read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not a trace.
    #[error("not a trace file (wrong magic)")]
    Magic,
    /// Written by a newer tool, or no version that ever was.
    #[error("trace version {0} is not known here (1 to {VERSION} are)")]
    Version(u16),
    /// Written by a newer tool.
    #[error("trace uses unknown features {0:#x}")]
    Features(u16),
    /// The header block is absent, damaged or not understood.
    #[error("trace header is damaged: {0}")]
    Header(String),
    /// A block with a right checksum has wrong content.
    #[error("trace block at byte {offset} is malformed: {what}")]
    Malformed {
        /// Position of the block in the file.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It would take more memory or steps than its length allows.
    #[error("trace is refused: {0}")]
    OverLimit(#[from] OverLimit),
    /// A layer that the header does not list.
    #[error("layer number {layer} is not one of the {layers} of the trace")]
    Layer {
        /// Number of the layer, from 0.
        layer: u32,
        /// How many there are.
        layers: usize,
    },
    /// A path or process name is longer than the format allows.
    #[error("{what} of {len} bytes is too long for a trace")]
    TooLong {
        /// Which field.
        what: &'static str,
        /// Its length.
        len: usize,
    },
}

impl Phase {
    pub(super) fn code(self) -> u64 {
        self as u64
    }
    pub(super) fn from_code(code: u64) -> Option<Self> {
        [Self::Setup, Self::Start, Self::Tail].into_iter().find(|p| p.code() == code)
    }
}

impl AccessKind {
    pub(super) fn code(self) -> u64 {
        self as u64
    }
    pub(super) fn from_code(code: u64) -> Option<Self> {
        [Self::Read, Self::Fault, Self::Map, Self::Exec, Self::Open].into_iter().find(|k| k.code() == code)
    }
}

pub(super) fn crc(kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// The bytes that a payload of records is made of; `None` when they are damaged or too many.
pub(super) fn inflate(payload: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut plain = DeflateDecoder::new(payload).take(MAX_BLOCK as u64 + 1);
    plain.read_to_end(&mut bytes).ok().filter(|&length| length <= MAX_BLOCK)?;
    Some(bytes)
}

pub(super) fn deflate(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}
