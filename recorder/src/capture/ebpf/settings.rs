//! What is loaded into the kernel, and how reads are seen. Plain values.

use recorder_ebpf::Way;

/// Size of the ring buffer when nobody says otherwise: 104 000 events.
pub const RING_BYTES: u32 = recorder_ebpf::RING_BYTES;

/// The committed programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../recorder-ebpf/recorder.bpf.o");

/// What is loaded, and how.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Size of the ring buffer: a power of two, at least a page.
    pub ring_bytes: u32,
    /// How reads are seen.
    pub reads: Reads,
    /// The programs.
    pub object: &'static [u8],
}

impl Default for Settings {
    fn default() -> Self {
        Self { ring_bytes: RING_BYTES, reads: Reads::Best, object: OBJECT }
    }
}

/// How reads are to be seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reads {
    /// In the best way that this kernel lets us use.
    #[default]
    Best,
    /// The same, but by the bytes that were given, or not at all.
    Exact,
    /// In this way, or not at all.
    Only(Way),
}

impl Reads {
    /// The ways to try, in order.
    pub(super) fn ways(&self) -> &[Way] {
        match self {
            Self::Best => &Way::ALL,
            Self::Exact => &Way::ALL[..2],
            Self::Only(way) => std::slice::from_ref(way),
        }
    }
}
