//! Traces whose few bytes define much.

use std::io::Write;
use std::path::Path;

use flate2::{Compression, write::DeflateEncoder};
use soci_core::trace::{Header, TraceError, TraceReader};

use crate::{ONE, measured, names};

/// A trace of record blocks.
fn trace(blocks: &[&[u8]]) -> Vec<u8> {
    let header = Header {
        image: "x".into(),
        manifest: None,
        layers: Vec::new(),
        engine: "fuse".into(),
        argv: Vec::new(),
        started_at: "2026-01-02T03:04:05Z".into(),
        warm: None,
        waits: None,
        partial: false,
    };
    let mut bytes = b"SOCITRC\n\x02\0\0\0".to_vec();
    let mut block = |kind: u8, payload: &[u8]| {
        let mut frame = vec![kind];
        frame.extend((payload.len() as u32).to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&frame);
        crc.update(payload);
        frame.extend(crc.finalize().to_le_bytes());
        bytes.extend(frame);
        bytes.extend(payload);
    };
    block(1, &serde_json::to_vec(&header).unwrap());
    for records in blocks {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(records).unwrap();
        block(2, &encoder.finish().unwrap());
    }
    bytes
}

/// All of a trace is read; the error.
fn read(path: &Path) -> TraceError {
    let mut reader = TraceReader::open(path).unwrap();
    reader.find_map(Result::err).expect("it is refused")
}

fn refused(limit: &str, blocks: &[&[u8]]) {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let bytes = trace(blocks);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    std::fs::write(&path, &bytes).unwrap();
    names(limit, &measured(bytes.len(), || read(&path)));
}

#[test]
fn millions_of_processes_without_a_name() {
    let block = [2, 0, 0].repeat(2_796_202);
    refused("trace-tables", &[&block[..]; 3]);
}

#[test]
fn millions_of_empty_paths() {
    let block = [1, 0, 0].repeat(2_796_202);
    refused("trace-tables", &[&block]);
}

#[test]
fn long_paths_that_are_those_before() {
    let mut block = vec![1, 0, 0x80, 0x20];
    block.resize(block.len() + 4096, b'p');
    block.extend([1, 0x80, 0x20, 0].repeat(100_000));
    refused("trace-tables", &[&block]);
}

#[test]
fn accesses_that_deflate_a_thousandfold() {
    let definitions = [1, 0, 1, b'f', 2, 0, 0];
    let accesses = [3, 0, 1, 0, 0, 0, 0, 0, 0].repeat(900_000);
    let mut blocks = vec![&definitions[..]];
    blocks.extend([&accesses[..]; 12]);
    refused("trace-records", &blocks);
}

#[test]
fn a_layer_that_the_header_does_not_list() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    std::fs::write(&path, trace(&[&[1, 0, 1, b'f', 2, 0, 0, 3, 0, 1, 0, 1, 0, 0, 0, 0]])).unwrap();
    assert!(read(&path).to_string().contains("layer out of range"));
}
