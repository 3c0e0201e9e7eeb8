//! Traces: damaged files whose checksums are right, and records that are repeated.
//!
//! Owns nothing.

use std::io::{Cursor, Write};

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::{Seed, bounded};
use crate::trace::TraceReader;

const HEADER: &[u8] = br#"{"image":"x","layers":[{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":1}],"engine":"fuse","argv":[],"started_at":""}"#;

/// A reader gives accesses of the layers and paths that the file defines, and its memory does not grow out of proportion.
pub fn trace_read(bytes: &[u8]) {
    read(&file(0, bytes, 1));
    let mut mended = bytes.to_vec();
    mend(&mut mended);
    read(&mended);
}

/// Pieces of records that are repeated, in blocks that are repeated.
pub fn trace_shapes(bytes: &[u8]) {
    const PIECES: [&[u8]; 7] = [
        &[1, 0, 0],
        &[1, 0, 1, b'p'],
        &[1, 1, 0],
        &[2, 0, 0],
        &[3, 0, 1, 0, 0, 0, 0, 0, 0],
        &[3, 0, 17, 0, 1, 2, 0, 0, 0],
        &[1, 0x80, 0x20, 0],
    ];
    let mut seed = Seed(bytes);
    let mut records = vec![1, 0, 1, b'f', 2, 0, 0];
    if seed.flag() {
        records.extend([1, 0, 0x80, 0x20]);
        records.resize(records.len() + 4096, b'p');
    }
    for _ in 0..seed.below(5) {
        let piece = PIECES[seed.below(PIECES.len())];
        records.extend(piece.repeat(seed.count().min((1 << 20) / piece.len())));
    }
    read(&file(2, &records, 1 + seed.below(12)));
}

/// Reads to the end.
fn read(bytes: &[u8]) {
    let input = bytes.to_vec();
    bounded(bytes.len(), || {
        let Ok(mut reader) = TraceReader::new(Cursor::new(input)) else { return };
        let layers = reader.header().layers.len();
        for access in reader.by_ref().flatten() {
            assert!(access.path.len() <= 4096 && access.offset.checked_add(access.len).is_some());
            assert!(access.layer.is_none_or(|layer| (layer as usize) < layers));
        }
        assert!(reader.tail().is_some());
    });
}

/// A file with `times` such blocks of records. Of version 2 they are deflated; version 0 is for bytes that are the payload.
fn file(version: u8, records: &[u8], times: usize) -> Vec<u8> {
    let mut bytes = b"SOCITRC\n".to_vec();
    bytes.extend([version.max(1), 0, 1, 0]);
    block(&mut bytes, 1, HEADER);
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(records).expect("memory is written to");
    let deflated = encoder.finish().expect("memory is written to");
    for _ in 0..times {
        block(&mut bytes, 2, if version == 2 { &deflated } else { records });
    }
    bytes
}

fn block(bytes: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let from = bytes.len();
    bytes.push(kind);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    checksum(&mut bytes[from..]);
}

/// Sets the checksum of the frame at the front, if there is a whole one; its length.
fn checksum(bytes: &mut [u8]) -> Option<usize> {
    let length = u32::from_le_bytes(bytes.get(1..5)?.try_into().ok()?) as usize;
    let end = length.checked_add(9).filter(|&end| end <= bytes.len())?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[..5]);
    crc.update(&bytes[9..end]);
    bytes[5..9].copy_from_slice(&crc.finalize().to_le_bytes());
    Some(end)
}

/// Makes all checksums of a file right.
fn mend(bytes: &mut [u8]) {
    let mut at = 12;
    while let Some(length) = bytes.get_mut(at..).and_then(checksum) {
        at += length;
    }
}
