//! Reads a trace file, also one whose writer died.
//!
//! The reader owns the open file and the tables of paths and processes defined so far. What must always hold: it
//! yields exactly the accesses of the undamaged blocks at the front, in order, and [`TraceReader::tail`] then says
//! whether the trace was sealed or where it is cut. Nothing in a file can make it panic or allocate without bound.

use std::{
    fmt,
    fs::File,
    io::{BufReader, ErrorKind, Read},
    path::Path,
    sync::Arc,
};

use super::format::{
    Access, AccessKind, BLOCK_END, BLOCK_HEADER, BLOCK_RECORDS, Costs, End, FLAG_OPENS, FRAME_LEN, Header,
    KNOWN_FLAGS, MAGIC, MAX_BLOCK, MAX_COMM, MAX_PATH, PREAMBLE_LEN, Phase, Process, RECORD_ACCESS,
    RECORD_PATH, RECORD_PROCESS, TraceError, VERSION, crc, inflate,
};
use crate::{
    budget::OverLimit,
    json,
    varint::{take_varint, unzigzag},
};

/// How the file ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tail {
    /// The writer finished.
    Sealed(End),
    /// The writer died or the file was cut: nothing after this byte could be used.
    Torn {
        /// Number of good bytes at the front of the file.
        good: u64,
    },
}

/// Where the bytes of a trace come from.
trait Source: Read + fmt::Debug + Send + Sync {}

impl<T: Read + fmt::Debug + Send + Sync> Source for T {}

/// An iterator over the accesses of one trace, in the order of writing.
#[derive(Debug)]
pub struct TraceReader {
    file: BufReader<Box<dyn Source>>,
    version: u16,
    flags: u16,
    header: Header,
    position: u64,
    block: Vec<u8>,
    cursor: usize,
    block_start: u64,
    known: Known,
    tail: Option<Tail>,
}

/// What the records so far say about the next ones.
#[derive(Debug)]
struct Known {
    version: u16,
    /// Layers of the header.
    layers: usize,
    costs: Costs,
    last_t: u64,
    paths: Vec<Arc<[u8]>>,
    /// Where the last access of each path ended.
    ends: Vec<u64>,
    processes: Vec<Arc<Process>>,
}

impl TraceReader {
    /// Opens a trace and reads its header.
    ///
    /// # Errors
    /// When the file is not a trace, is of a newer version, or its header is damaged.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        Self::new(File::open(path)?)
    }

    /// Reads the header of a trace.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn new(bytes: impl Read + fmt::Debug + Send + Sync + 'static) -> Result<Self, TraceError> {
        let mut file = BufReader::with_capacity(64 << 10, Box::new(bytes) as Box<dyn Source>);
        let mut preamble = [0u8; PREAMBLE_LEN];
        file.read_exact(&mut preamble).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => TraceError::Magic,
            _ => TraceError::Io(e),
        })?;
        if &preamble[..8] != MAGIC {
            return Err(TraceError::Magic);
        }
        let version = u16::from_le_bytes([preamble[8], preamble[9]]);
        if version == 0 || version > VERSION {
            return Err(TraceError::Version(version));
        }
        let flags = u16::from_le_bytes([preamble[10], preamble[11]]);
        if flags & !KNOWN_FLAGS != 0 {
            return Err(TraceError::Features(flags));
        }
        let mut position = PREAMBLE_LEN as u64;
        let header: Header = match read_block(&mut file, &mut position)? {
            Some((BLOCK_HEADER, json)) => {
                json::check(&json)?;
                serde_json::from_slice(&json).map_err(|e| TraceError::Header(e.to_string()))?
            }
            _ => return Err(TraceError::Header("absent or cut".into())),
        };
        let known = Known {
            version,
            layers: header.layers.len(),
            costs: Costs::new(),
            last_t: 0,
            paths: Vec::new(),
            ends: Vec::new(),
            processes: Vec::new(),
        };
        Ok(Self {
            file,
            version,
            flags,
            header,
            position,
            block: Vec::new(),
            cursor: 0,
            block_start: position,
            known,
            tail: None,
        })
    }

    /// What was recorded.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Version of the format that the file has.
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Feature bits of the file; all are known here, else it could not have been opened.
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// How the file ends; `None` until the iterator is exhausted.
    pub fn tail(&self) -> Option<&Tail> {
        self.tail.as_ref()
    }

    fn next_access(&mut self) -> Result<Option<Access>, TraceError> {
        loop {
            while self.cursor < self.block.len() {
                if let Some(access) = self.record()? {
                    return Ok(Some(access));
                }
            }
            if self.tail.is_some() {
                return Ok(None);
            }
            self.block_start = self.position;
            match read_block(&mut self.file, &mut self.position)? {
                Some((BLOCK_RECORDS, payload)) => {
                    let stored = payload.len();
                    self.block = match self.version {
                        1 => payload,
                        _ => inflate(&payload).ok_or_else(|| self.malformed("records do not inflate"))?,
                    };
                    self.cursor = 0;
                    self.known.last_t = 0;
                    self.known.costs.block(stored, self.block.len())?;
                }
                Some((BLOCK_END, json)) => {
                    json::check(&json)?;
                    let end = serde_json::from_slice(&json).map_err(|_| self.malformed("end record"))?;
                    self.tail = Some(Tail::Sealed(end));
                }
                Some(_) => return Err(self.malformed("unknown block kind")),
                None => self.tail = Some(Tail::Torn { good: self.position }),
            }
        }
    }

    /// Decodes one record of the current block; definitions give `None`.
    fn record(&mut self) -> Result<Option<Access>, TraceError> {
        let mut rest = &self.block[self.cursor..];
        let before = rest.len();
        let decoded = self.known.decode(&mut rest);
        self.cursor += before - rest.len();
        match decoded {
            Ok(Some(access)) if access.kind == AccessKind::Open && self.flags & FLAG_OPENS == 0 => {
                Err(self.malformed("an opening, which the flags do not announce"))
            }
            Ok(access) => Ok(access),
            Err(Wrong::Malformed(what)) => Err(self.malformed(what)),
            Err(Wrong::OverLimit(limit)) => Err(limit.into()),
        }
    }

    fn malformed(&self, what: &'static str) -> TraceError {
        TraceError::Malformed { offset: self.block_start, what }
    }
}

impl Iterator for TraceReader {
    type Item = Result<Access, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_access();
        if next.is_err() {
            // An error ends the iteration: later blocks may rest on definitions that were lost.
            self.cursor = self.block.len();
            self.tail = Some(Tail::Torn { good: self.block_start });
        }
        next.transpose()
    }
}

/// Reads the next block; `None` when the file ends here, is cut inside it, or its checksum is wrong.
/// `position` moves only over good blocks.
fn read_block(file: &mut impl Read, position: &mut u64) -> Result<Option<(u8, Vec<u8>)>, TraceError> {
    let mut frame = [0u8; FRAME_LEN];
    if !fill(file, &mut frame)? {
        return Ok(None);
    }
    let kind = frame[0];
    let len = u32::from_le_bytes([frame[1], frame[2], frame[3], frame[4]]) as usize;
    let want = u32::from_le_bytes([frame[5], frame[6], frame[7], frame[8]]);
    if len > MAX_BLOCK {
        return Ok(None);
    }
    let mut payload = vec![0u8; len];
    if !fill(file, &mut payload)? || crc(kind, &payload) != want {
        return Ok(None);
    }
    *position += (FRAME_LEN + len) as u64;
    Ok(Some((kind, payload)))
}

fn fill(file: &mut impl Read, buffer: &mut [u8]) -> Result<bool, TraceError> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e.into()),
    }
}

impl Known {
    /// Takes one record off the front; definitions give `None`.
    fn decode(&mut self, rest: &mut &[u8]) -> Result<Option<Access>, Wrong> {
        let mut int = || take_varint(rest).ok_or("cut integer");
        match int()? {
            RECORD_PATH => {
                let shared = if self.version == 1 { 0 } else { int()? };
                let len = int()?;
                let shared = usize::try_from(shared).map_err(|_| "name too long")?;
                let before = self.paths.last().map_or(&[][..], |path| path);
                let mut path = before.get(..shared).ok_or("undefined path")?.to_vec();
                path.extend_from_slice(take_bytes(rest, len, MAX_PATH - shared)?);
                self.costs.entry(path.len())?;
                self.paths.push(path.into());
                self.ends.push(0);
                Ok(None)
            }
            RECORD_PROCESS => {
                let pid = u32::try_from(int()?).map_err(|_| "pid out of range")?;
                let len = int()?;
                let comm: Arc<[u8]> = take_bytes(rest, len, MAX_COMM)?.into();
                self.costs.entry(comm.len())?;
                self.processes.push(Arc::new(Process { pid, comm }));
                Ok(None)
            }
            RECORD_ACCESS => {
                let t_ns = self.last_t.wrapping_add(unzigzag(int()?) as u64);
                let code = int()?;
                let (path, layer, offset, len) = (int()?, int()?, int()?, int()?);
                let (process, wait_ns) = (int()?, int()?);
                let at = usize::try_from(path).map_err(|_| "undefined path")?;
                let end = self.ends.get_mut(at).ok_or("undefined path")?;
                let offset =
                    if self.version == 1 { offset } else { end.wrapping_add(unzigzag(offset) as u64) };
                *end = offset.checked_add(len).ok_or("range overflow")?;
                let layer = match layer.checked_sub(1) {
                    None => None,
                    Some(index) if index >= self.layers as u64 => return Err("layer out of range".into()),
                    // Fewer than the header has bytes.
                    Some(index) => Some(index as u32),
                };
                self.last_t = t_ns;
                Ok(Some(Access {
                    t_ns,
                    phase: Phase::from_code(code & 3).ok_or("unknown phase")?,
                    kind: AccessKind::from_code(code >> 2).ok_or("unknown access kind")?,
                    path: entry(&self.paths, path).ok_or("undefined path")?,
                    layer,
                    offset,
                    len,
                    process: entry(&self.processes, process).ok_or("undefined process")?,
                    wait_ns,
                }))
            }
            _ => Err("unknown record".into()),
        }
    }
}

/// Why a record is refused.
enum Wrong {
    Malformed(&'static str),
    OverLimit(OverLimit),
}

impl From<&'static str> for Wrong {
    fn from(what: &'static str) -> Self {
        Self::Malformed(what)
    }
}

impl From<OverLimit> for Wrong {
    fn from(limit: OverLimit) -> Self {
        Self::OverLimit(limit)
    }
}

fn take_bytes<'a>(rest: &mut &'a [u8], len: u64, max: usize) -> Result<&'a [u8], &'static str> {
    let len = usize::try_from(len).ok().filter(|&len| len <= max).ok_or("name too long")?;
    let (bytes, tail) = rest.split_at_checked(len).ok_or("cut name")?;
    *rest = tail;
    Ok(bytes)
}

fn entry<T: Clone>(table: &[T], id: u64) -> Option<T> {
    table.get(usize::try_from(id).ok()?).cloned()
}
