//! A place between two deflate blocks where decompression can start.
//!
//! Owns no state. Invariant: `bits <= 7`, and `input >= 1` when `bits != 0`.

/// Bytes of output that deflate data may refer back to: the length of a window.
pub(crate) const WINDOW: usize = 32 << 10;

/// Where to start, and what came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint<W> {
    /// Offset in the layer blob of the first byte that is not even partly consumed.
    pub input: u64,
    /// Offset in the uncompressed stream.
    pub output: u64,
    /// How many high bits of the byte before `input` are still unread.
    pub bits: u8,
    /// The 32 KiB of output before `output`, zeros in front when there is less.
    pub window: W,
}

impl<W> Checkpoint<W> {
    /// Offset of the first byte that this checkpoint needs.
    pub(crate) fn start(&self) -> u64 {
        self.input.saturating_sub(u64::from(self.bits != 0))
    }
}
