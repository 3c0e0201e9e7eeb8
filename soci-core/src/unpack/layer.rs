//! A compressed layer to a directory in one pass: decompress, hash the plain bytes, walk the archive, write.
//!
//! Nothing is kept of a layer whose plain bytes are not those of the expected diff id: the error says so and the
//! caller throws the directory away.

use std::io::Read;
use std::path::Path;

use super::{Applied, Applier, ApplyOptions, UnpackError};
use crate::compression::format::LayerFormat;
use crate::compression::gzip::Members;
use crate::compression::zstd::WINDOW_LOG;
use crate::digest::{Digest, Hasher};
use crate::tar::Parser;

/// How much plain data is handled at a time.
const CHUNK: usize = 256 * 1024;

/// A layer that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// sha256 of the plain bytes.
    pub diff_id: Digest,
    /// Number of plain bytes.
    pub plain_size: u64,
    /// Entries and bytes of file content.
    pub applied: Applied,
}

/// Reads a whole layer from `compressed` and writes it below `dest`.
///
/// With `expected`, plain bytes of another digest are an error ([`UnpackError::DiffId`]); the directory then holds
/// what was written so far and is to be removed by the caller, as after any other error.
pub fn unpack_layer(
    compressed: impl Read,
    format: LayerFormat,
    dest: &Path,
    options: ApplyOptions,
    expected: Option<Digest>,
) -> Result<Unpacked, UnpackError> {
    match format {
        LayerFormat::Tar => unpack_plain(compressed, dest, options, expected),
        LayerFormat::Zstd => {
            let mut plain = zstd::Decoder::new(compressed).map_err(UnpackError::Read)?;
            plain.window_log_max(WINDOW_LOG).map_err(UnpackError::Read)?;
            unpack_plain(plain, dest, options, expected)
        }
        LayerFormat::Gzip => unpack_plain(Members::new(compressed), dest, options, expected),
    }
}

fn unpack_plain(
    mut plain: impl Read,
    dest: &Path,
    options: ApplyOptions,
    expected: Option<Digest>,
) -> Result<Unpacked, UnpackError> {
    let mut applier = Applier::new(dest, options)?;
    let mut parser = Parser::new();
    let mut hasher = Hasher::new();
    let mut chunk = vec![0; CHUNK];
    let mut plain_size = 0;
    loop {
        let length = match plain.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(UnpackError::Read(error)),
        };
        plain_size += length as u64;
        hasher.update(&chunk[..length]);
        parser.push(&chunk[..length], &mut applier)?;
    }
    parser.finish()?;
    let diff_id = hasher.finish();
    if let Some(expected) = expected
        && expected != diff_id
    {
        return Err(UnpackError::DiffId { expected, actual: diff_id });
    }
    Ok(Unpacked { diff_id, plain_size, applied: applier.finish()? })
}
