//! The checkpoint blob ("TarZinfo") of a plain tar layer: a small flatbuffer with span size and layer size.
//!
//! Owns no state. Invariant: spans of a plain tar are `span_size` bytes each, but for the last one.

use flatbuffers::FlatBufferBuilder;

use crate::flat::{OutOfBounds, Table, slot};

/// Version number that upstream writes; readers ignore it.
const VERSION: i32 = 2;

/// Contents of the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TarZinfo {
    /// Bytes per span.
    pub span_size: i64,
    /// Bytes of the layer.
    pub size: i64,
}

impl TarZinfo {
    /// Reads a blob; the numbers are not checked.
    pub(crate) fn decode(blob: &[u8]) -> Result<Self, OutOfBounds> {
        let table = Table::root(blob)?;
        Ok(Self { span_size: table.i64(1)?, size: table.i64(2)? })
    }

    /// Writes a blob.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut builder = FlatBufferBuilder::new();
        let table = builder.start_table();
        builder.push_slot(slot(0), VERSION, 0_i32);
        builder.push_slot(slot(1), self.span_size, 0_i64);
        builder.push_slot(slot(2), self.size, 0_i64);
        let table = builder.end_table(table);
        builder.finish_minimal(table);
        builder.finished_data().to_vec()
    }
}
