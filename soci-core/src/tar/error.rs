//! Why a byte stream is not a tar archive, or not one that its receiver can take.
//!
//! Owns no state. Invariant: every error names the offset or the entry it speaks of.

/// Why a tar archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The header block at `offset` (bytes into the archive) is not a tar header.
    #[error("invalid tar header at offset {offset}: {reason}")]
    Header {
        /// Offset of the 512-byte block.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The PAX records in front of `offset` do not follow the format.
    #[error("invalid PAX records before offset {offset}: {reason}")]
    Pax {
        /// Offset of the first byte after the records.
        offset: u64,
        /// What is wrong with them.
        reason: &'static str,
    },
    /// A PAX body, long name or long link name is larger than 1 MiB.
    #[error("tar extension header at offset {offset} holds {size} bytes, more than {limit}")]
    ExtensionTooLarge {
        /// Offset of the extension's body.
        offset: u64,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// An entry type that the receiver cannot take.
    #[error("unsupported input tar entry '{typeflag}' ({name})")]
    Unsupported {
        /// Type letter of the header.
        typeflag: char,
        /// Name of the entry, lossily decoded.
        name: String,
    },
    /// A GNU sparse file (old format or PAX): its stored bytes are not its content.
    #[error("sparse tar entry {name} cannot be served lazily")]
    Sparse {
        /// Name of the entry, lossily decoded.
        name: String,
    },
    /// The archive ends inside a header or inside content.
    #[error("tar archive ends inside {inside} at offset {offset}")]
    Truncated {
        /// Length of the archive in bytes.
        offset: u64,
        /// What was cut.
        inside: &'static str,
    },
}

impl TarError {
    /// Whether the archive may well be right, but has an entry of a kind that zTOCs cannot describe.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Unsupported { .. } | Self::Sparse { .. })
    }
}
