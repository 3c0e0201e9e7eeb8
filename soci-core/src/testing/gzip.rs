//! gzip streams of the shapes that layers come in.
//!
//! Owns nothing. Invariant: every shape decompresses to the given bytes with GNU gzip.

use std::io::{Read, Write};

use flate2::read::MultiGzDecoder;
use flate2::{Compression, GzBuilder};

/// Length of a gzip header without optional fields.
const SHORT_HEADER: usize = 10;

/// How a gzip stream is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GzipShape {
    /// One member at a level from 0 (stored blocks) to 9.
    Level(u32),
    /// One member with a file name and a comment in its header.
    Named,
    /// One member for each so many plain bytes, as parallel compressors write them.
    Members(usize),
    /// One member with a full flush before the first byte and after each so many plain bytes.
    Flushed(usize),
    /// An empty member before and after the one with the data.
    EmptyMembers,
    /// One member whose header has every field that RFC 1952 knows: extra, name, comment, checksum.
    EveryField,
    /// One member, and so many zeros behind it, as on media that are read in blocks.
    ZerosBehind(usize),
}

/// Compresses `plain`.
pub fn gzip(shape: &GzipShape, plain: &[u8]) -> Vec<u8> {
    match shape {
        GzipShape::Level(level) => member(GzBuilder::new(), Compression::new(*level), plain, None),
        GzipShape::Named => {
            let header =
                GzBuilder::new().filename("layer.tar").comment("made by a test").mtime(1_700_000_000);
            member(header, Compression::default(), plain, None)
        }
        GzipShape::Members(size) if plain.is_empty() || *size == 0 => gzip(&GzipShape::Level(6), plain),
        GzipShape::Members(size) => {
            plain.chunks(*size).flat_map(|chunk| gzip(&GzipShape::Level(6), chunk)).collect()
        }
        GzipShape::Flushed(every) => {
            member(GzBuilder::new(), Compression::default(), plain, Some((*every).max(1)))
        }
        GzipShape::EmptyMembers => {
            let empty = gzip(&GzipShape::Level(6), &[]);
            [&empty, &gzip(&GzipShape::Level(6), plain), &empty].map(Vec::as_slice).concat()
        }
        GzipShape::EveryField => {
            let short = gzip(&GzipShape::Level(6), plain);
            let mut header = vec![0x1f, 0x8b, 8, 0b1_1110, 0, 0, 0, 0, 0, 255];
            header.extend_from_slice(b"\x06\0xx\x02\0ab");
            header.extend_from_slice(b"layer.tar\0made by a test\0");
            header.extend_from_slice(&(crc32fast::hash(&header) as u16).to_le_bytes());
            [&header, &short[SHORT_HEADER..]].concat()
        }
        GzipShape::ZerosBehind(count) => [gzip(&GzipShape::Level(6), plain), vec![0; *count]].concat(),
    }
}

fn member(header: GzBuilder, level: Compression, plain: &[u8], flush_every: Option<usize>) -> Vec<u8> {
    let mut encoder = header.write(Vec::new(), level);
    let chunk = flush_every.unwrap_or(plain.len()).max(1);
    let written = (|| {
        if flush_every.is_some() {
            encoder.flush()?;
        }
        for chunk in plain.chunks(chunk) {
            encoder.write_all(chunk)?;
            if flush_every.is_some() {
                encoder.flush()?;
            }
        }
        encoder.finish()
    })();
    written.expect("a vector takes all bytes")
}

/// Decompresses all members of `layer`; panics when it is not gzip.
pub fn gunzip(layer: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(layer).read_to_end(&mut plain).expect("the layer is gzip");
    plain
}
