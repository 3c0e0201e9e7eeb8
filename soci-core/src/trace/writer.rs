//! Appends accesses to a new trace file.
//!
//! The writer owns the file and the tables of paths and processes already defined in it. What must always hold: the
//! file is a valid trace (perhaps without its tail) after every block, so a crash loses at most the open block.

use std::{collections::HashMap, fs::File, io::Write, os::unix::fs::FileExt, path::Path, sync::Arc};

use super::format::{
    Access, AccessKind, BLOCK_END, BLOCK_HEADER, BLOCK_RECORDS, BLOCK_TARGET, Costs, End, FLAG_OPENS,
    FLAGS_AT, Header, MAGIC, MAX_COMM, MAX_PATH, Process, RECORD_ACCESS, RECORD_PATH, RECORD_PROCESS,
    TraceError, VERSION, crc, deflate,
};
use crate::varint::{put_varint, zigzag};

/// Writes one trace. Not finished with [`TraceWriter::finish`], the file reads as a torn trace.
#[derive(Debug)]
pub struct TraceWriter {
    file: File,
    flags: u16,
    block: Vec<u8>,
    last_t: u64,
    paths: HashMap<Arc<[u8]>, u64>,
    last_path: Arc<[u8]>,
    /// Numbers of layers are below this.
    layers: usize,
    /// What a reader will grant.
    costs: Costs,
    /// Where the last access of each path ended.
    ends: Vec<u64>,
    processes: HashMap<Arc<Process>, u64>,
    accesses: u64,
}

impl TraceWriter {
    /// Creates (or empties) the file and writes the header.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(path: &Path, header: &Header) -> Result<Self, TraceError> {
        let mut file = File::create(path)?;
        let mut preamble = MAGIC.to_vec();
        preamble.extend(VERSION.to_le_bytes());
        preamble.extend(0u16.to_le_bytes());
        file.write_all(&preamble)?;
        let json = serde_json::to_vec(header).map_err(|e| TraceError::Header(e.to_string()))?;
        let mut writer = Self {
            file,
            flags: 0,
            block: Vec::with_capacity(BLOCK_TARGET + MAX_PATH + 256),
            last_t: 0,
            paths: HashMap::new(),
            last_path: Arc::default(),
            layers: header.layers.len(),
            costs: Costs::new(),
            ends: Vec::new(),
            processes: HashMap::new(),
            accesses: 0,
        };
        writer.write_block(BLOCK_HEADER, &json)?;
        Ok(writer)
    }

    /// Appends one access. It reaches the file when its block is full, at [`Self::flush`] or at the end.
    ///
    /// # Errors
    /// When the path or process name is too long, the layer is not in the header, there are more of them than a reader takes,
    /// or the file cannot be written.
    pub fn access(&mut self, access: &Access) -> Result<(), TraceError> {
        too_long("path", access.path.len(), MAX_PATH)?;
        too_long("process name", access.process.comm.len(), MAX_COMM)?;
        if let Some(layer) = access.layer.filter(|&layer| layer as usize >= self.layers) {
            return Err(TraceError::Layer { layer, layers: self.layers });
        }
        if access.kind == AccessKind::Open && self.flags & FLAG_OPENS == 0 {
            // Only now, so that a trace without openings can be read by those who do not know them.
            self.flags |= FLAG_OPENS;
            self.file.write_all_at(&self.flags.to_le_bytes(), FLAGS_AT)?;
        }
        let path = self.path_id(&access.path)?;
        let end = &mut self.ends[path as usize];
        let step = access.offset.wrapping_sub(*end) as i64;
        *end = access.offset.wrapping_add(access.len);
        let process = self.process_id(&access.process)?;
        let out = &mut self.block;
        put_varint(out, RECORD_ACCESS);
        put_varint(out, zigzag(access.t_ns.wrapping_sub(self.last_t) as i64));
        put_varint(out, access.phase.code() | access.kind.code() << 2);
        put_varint(out, path);
        put_varint(out, access.layer.map_or(0, |layer| u64::from(layer) + 1));
        put_varint(out, zigzag(step));
        put_varint(out, access.len);
        put_varint(out, process);
        put_varint(out, access.wait_ns);
        self.last_t = access.t_ns;
        self.accesses += 1;
        if self.block.len() >= BLOCK_TARGET { self.flush() } else { Ok(()) }
    }

    /// Accesses written so far.
    pub fn accesses(&self) -> u64 {
        self.accesses
    }

    /// Closes the open block, so that everything so far survives a crash of this process.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<(), TraceError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let payload = deflate(&self.block)?;
        self.costs.block(payload.len(), self.block.len())?;
        self.block.clear();
        self.last_t = 0;
        self.write_block(BLOCK_RECORDS, &payload)
    }

    /// Seals the trace and syncs it to disk.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self, end: &End) -> Result<(), TraceError> {
        self.flush()?;
        let json = serde_json::to_vec(end).map_err(|e| TraceError::Header(e.to_string()))?;
        self.write_block(BLOCK_END, &json)?;
        self.file.sync_all()?;
        Ok(())
    }

    fn path_id(&mut self, path: &Arc<[u8]>) -> Result<u64, TraceError> {
        if let Some(&id) = self.paths.get(path) {
            return Ok(id);
        }
        self.costs.entry(path.len())?;
        let id = self.paths.len() as u64;
        self.paths.insert(path.clone(), id);
        put_varint(&mut self.block, RECORD_PATH);
        let shared = path.iter().zip(self.last_path.iter()).take_while(|(one, two)| one == two).count();
        put_varint(&mut self.block, shared as u64);
        put_varint(&mut self.block, (path.len() - shared) as u64);
        self.block.extend_from_slice(&path[shared..]);
        self.last_path = Arc::clone(path);
        self.ends.push(0);
        Ok(id)
    }

    fn process_id(&mut self, process: &Arc<Process>) -> Result<u64, TraceError> {
        if let Some(&id) = self.processes.get(process) {
            return Ok(id);
        }
        self.costs.entry(process.comm.len())?;
        let id = self.processes.len() as u64;
        self.processes.insert(process.clone(), id);
        put_varint(&mut self.block, RECORD_PROCESS);
        put_varint(&mut self.block, u64::from(process.pid));
        put_varint(&mut self.block, process.comm.len() as u64);
        self.block.extend_from_slice(&process.comm);
        Ok(id)
    }

    fn write_block(&mut self, kind: u8, payload: &[u8]) -> Result<(), TraceError> {
        let mut frame = vec![kind];
        frame.extend((payload.len() as u32).to_le_bytes());
        frame.extend(crc(kind, payload).to_le_bytes());
        frame.extend_from_slice(payload);
        self.file.write_all(&frame)?;
        Ok(())
    }
}

fn too_long(what: &'static str, len: usize, max: usize) -> Result<(), TraceError> {
    if len > max { Err(TraceError::TooLong { what, len }) } else { Ok(()) }
}
