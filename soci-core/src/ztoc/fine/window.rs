//! One window: the 32 KiB of plain bytes before a span, to which the span's deflate data may refer.
//!
//! [`Window`] owns its bytes. Invariant: exactly 32 KiB, zeros in front when fewer bytes came before.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::WindowPlace;
use crate::compression::gzip::WINDOW;
use crate::digest::Digest;

/// Effort of compression. The highest makes windows a twentieth smaller and takes 30 times as long, which would be ten
/// times the rest of the build.
const LEVEL: i32 = 6;

/// Why bytes are not the window that the table names.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// Other bytes.
    #[error("window has digest {found}, expected {wanted}")]
    Digest {
        /// Digest of the bytes.
        found: Digest,
        /// Digest in the table.
        wanted: Digest,
    },
    /// They are the bytes that the table names, but no 32 KiB of zstd: the table's maker is at fault.
    #[error("window cannot be decompressed")]
    Damaged(#[source] io::Error),
    /// They hold fewer bytes than a window has.
    #[error("window has {0} bytes, expected {WINDOW}")]
    Short(usize),
}

/// A window. Cloning it is cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct Window(Arc<[u8]>);

impl Window {
    /// Plain bytes of a window.
    pub const SIZE: usize = WINDOW;

    /// Checks and decompresses the bytes at `place` in the blob of windows.
    pub fn open(place: &WindowPlace, bytes: &[u8]) -> Result<Self, WindowError> {
        let found = Digest::of(bytes);
        if found != place.digest {
            return Err(WindowError::Digest { found, wanted: place.digest });
        }
        let mut window = vec![0; WINDOW];
        let length =
            zstd::bulk::decompress_to_buffer(bytes, &mut window[..]).map_err(WindowError::Damaged)?;
        if length == WINDOW { Ok(Self(window.into())) } else { Err(WindowError::Short(length)) }
    }

    /// The window of a span whose plain bytes follow on `before`, of which the last 32 KiB count.
    pub fn from_plain(before: &[u8]) -> Self {
        let before = &before[before.len().saturating_sub(WINDOW)..];
        let mut window = vec![0; WINDOW];
        window[WINDOW - before.len()..].copy_from_slice(before);
        Self(window.into())
    }

    /// The bytes.
    pub(in crate::ztoc) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Window")
    }
}

/// Compresses windows one by one.
pub(super) struct Press {
    compressor: zstd::bulk::Compressor<'static>,
    window: Box<[u8]>,
}

impl Press {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            compressor: zstd::bulk::Compressor::new(LEVEL)?,
            window: vec![0; WINDOW].into_boxed_slice(),
        })
    }

    /// The compressed bytes of `window`, of which only the last `reach` bytes count.
    pub(super) fn press(&mut self, window: &[u8], reach: usize) -> io::Result<Vec<u8>> {
        let unused = WINDOW - reach;
        self.window[..unused].fill(0);
        self.window[unused..].copy_from_slice(&window[unused..]);
        self.compressor.compress(&self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteRange;

    fn place(bytes: &[u8]) -> WindowPlace {
        WindowPlace { range: ByteRange::new(0, bytes.len() as u64), digest: Digest::of(bytes) }
    }

    #[test]
    fn a_window_is_opened_only_from_its_own_bytes() {
        let plain: Vec<u8> = (0..WINDOW).map(|at| (at / 7) as u8).collect();
        let mut press = Press::new().unwrap();
        let bytes = press.press(&plain, WINDOW).unwrap();
        let window = Window::open(&place(&bytes), &bytes).unwrap();
        assert_eq!(window.bytes(), plain);
        assert_eq!(window, Window::from_plain(&[b"more before", &plain[..]].concat()));
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(matches!(Window::open(&place(&bytes), &wrong), Err(WindowError::Digest { .. })));
        }
        let reached = press.press(&plain, 3).unwrap();
        let reached = Window::open(&place(&reached), &reached).unwrap();
        assert_eq!(reached, Window::from_plain(&plain[WINDOW - 3..]));
    }

    #[test]
    fn other_sizes_than_a_windows_are_refused() {
        let open = |plain: &[u8]| {
            let bytes = zstd::bulk::compress(plain, 3).unwrap();
            Window::open(&place(&bytes), &bytes)
        };
        assert!(open(&vec![0; WINDOW]).is_ok());
        assert!(matches!(open(&vec![0; WINDOW - 1]), Err(WindowError::Short(_))));
        assert!(matches!(open(&vec![0; WINDOW + 1]), Err(WindowError::Damaged(_))));
        assert!(matches!(open(&vec![0; 1 << 24]), Err(WindowError::Damaged(_))), "a bomb");
        assert!(matches!(Window::open(&place(b"?"), b"?"), Err(WindowError::Damaged(_))));
    }
}
