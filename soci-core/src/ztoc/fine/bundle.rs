//! The fine tables of all layers of an image in one blob.
//!
//! [`Bundle`] owns the blob's bytes. Invariant: tables lie one behind the other and fill the blob; no layer has two.
//!
//! ```text
//!  0  magic "SOCIFBDL"            16  u32 number of tables
//!  8  u32 version, u32 flags      20  for each: digest[32] of the layer, u64 length; then the tables
//! ```

use std::collections::HashSet;
use std::ops::Range;

use bytes::Bytes;

use crate::budget::{Budget, OverLimit};
use crate::digest::Digest;
use crate::ztoc::{Ztoc, ZtocError};

/// Bytes of a bundle at most, for its writer and its readers: tables are about a hundredth of an image.
pub const MAX_BUNDLE: u64 = 256 << 20;

const MAGIC: &[u8; 8] = b"SOCIFBDL";
const VERSION: u32 = 1;
const HEADER: usize = 20;
const RECORD: usize = 40;

/// Limit: tables of a bundle. overlayfs takes 500 layers.
const TABLES: Budget = Budget::new("bundle-tables", 4096);

/// Why bytes are not a bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// No bundle, or a damaged one.
    #[error("bundle of fine tables is damaged: {0}")]
    Damaged(&'static str),
    /// More tables than an image can have layers.
    #[error("bundle of fine tables is refused: {0}")]
    OverLimit(#[from] OverLimit),
    /// A version that is not known.
    #[error("bundle of fine tables has unknown version {version}, flags {flags}")]
    Version {
        /// Version.
        version: u32,
        /// Flags, of which none is known.
        flags: u32,
    },
}

/// The tables of an image.
#[derive(Debug, Clone)]
pub struct Bundle {
    bytes: Bytes,
    tables: Vec<(Digest, Range<usize>)>,
}

impl Bundle {
    /// The bytes of a bundle. Of two tables for a layer the first one counts.
    pub fn encode(tables: &[(Digest, Bytes)]) -> Vec<u8> {
        let mut seen = HashSet::new();
        let tables: Vec<_> = tables.iter().filter(|(layer, _)| seen.insert(*layer)).collect();
        let mut bytes = Vec::new();
        bytes.extend_from_slice(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend((tables.len() as u32).to_le_bytes());
        for (layer, table) in &tables {
            bytes.extend_from_slice(layer.as_bytes());
            bytes.extend((table.len() as u64).to_le_bytes());
        }
        for (_, table) in &tables {
            bytes.extend_from_slice(table);
        }
        bytes
    }

    /// Reads the list of tables; they are not opened yet.
    pub fn open(bytes: Bytes) -> Result<Self, BundleError> {
        let short = BundleError::Damaged("it ends early");
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or(short.clone())?;
        let (magic, header) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(BundleError::Damaged("it does not begin as one"));
        }
        let (numbers, _) = header.as_chunks::<4>();
        let [version, flags, count] = [0, 1, 2].map(|at: usize| u32::from_le_bytes(numbers[at]));
        if (version, flags) != (VERSION, 0) {
            return Err(BundleError::Version { version, flags });
        }
        { TABLES }.spend(u64::from(count))?;
        let records = (count as usize).checked_mul(RECORD).and_then(|length| length.checked_add(HEADER));
        let records = records.and_then(|end| bytes.get(HEADER..end)).ok_or(short.clone())?;
        let mut at = HEADER + records.len();
        let mut tables = Vec::with_capacity(count as usize);
        let mut seen = HashSet::new();
        for record in records.as_chunks::<RECORD>().0 {
            let (layer, length) = record.split_at(RECORD - 8);
            let layer = Digest::from_bytes(*layer.first_chunk().ok_or(short.clone())?);
            let length = u64::from_le_bytes(*length.first_chunk().ok_or(short.clone())?);
            let end = usize::try_from(length).ok().and_then(|length| at.checked_add(length));
            let end = end.filter(|&end| end <= bytes.len()).ok_or(short.clone())?;
            if !seen.insert(layer) {
                return Err(BundleError::Damaged("a layer has two tables"));
            }
            tables.push((layer, at..end));
            at = end;
        }
        if at == bytes.len() {
            Ok(Self { bytes, tables })
        } else {
            Err(BundleError::Damaged("more follows on its tables"))
        }
    }

    /// The layers that have a table, in the order of the image.
    pub fn layers(&self) -> impl Iterator<Item = Digest> {
        self.tables.iter().map(|(layer, _)| *layer)
    }

    /// Length of the table of a layer; `None` when it has none.
    pub fn length(&self, layer: &Digest) -> Option<u64> {
        let (_, range) = self.tables.iter().find(|(known, _)| known == layer)?;
        Some(range.len() as u64)
    }

    /// Opens the table of a layer; `None` when it has none.
    pub fn table(&self, layer: &Digest) -> Option<Result<Ztoc, ZtocError>> {
        let (_, range) = self.tables.iter().find(|(known, _)| known == layer)?;
        let opened = Ztoc::open_table(self.bytes.slice(range.clone()));
        Some(opened.and_then(|table| {
            if table.layer() == Some(*layer) {
                Ok(table)
            } else {
                Err(ZtocError::Table("it is another layer's"))
            }
        }))
    }
}
