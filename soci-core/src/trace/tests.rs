//! Round trip, cut and damaged files of the trace format.

use std::{fs, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;

fn header() -> Header {
    Header {
        image: "example.org/app:1".into(),
        manifest: Some(Digest::of(b"manifest")),
        layers: vec![LayerRef { digest: Digest::of(b"layer"), size: 42 }],
        engine: "fuse".into(),
        argv: vec!["/bin/app".into(), "--flag".into()],
        started_at: "2026-01-02T03:04:05Z".into(),
        warm: None,
        waits: None,
        partial: false,
    }
}

fn end() -> End {
    End {
        dropped: 3,
        outcome: Outcome::Ready,
        ready_ns: Some(77),
        ended_ns: 99,
        exit_code: None,
        outside: None,
        links: std::collections::BTreeMap::new(),
    }
}

fn access() -> impl Strategy<Value = Access> {
    let phase = prop_oneof![Just(Phase::Setup), Just(Phase::Start), Just(Phase::Tail)];
    let kind = prop_oneof![
        Just(AccessKind::Read),
        Just(AccessKind::Fault),
        Just(AccessKind::Map),
        Just(AccessKind::Exec),
        Just(AccessKind::Open)
    ];
    (
        any::<u64>(),
        phase,
        kind,
        prop::collection::vec(any::<u8>(), 0..6),
        prop::option::of(Just(0)),
        (0..=u64::MAX / 2, 0..=u64::MAX / 2),
        (any::<u32>(), prop::collection::vec(any::<u8>(), 0..3)),
        any::<u64>(),
    )
        .prop_map(|(t_ns, phase, kind, path, layer, (offset, len), (pid, comm), wait_ns)| Access {
            t_ns,
            phase,
            kind,
            path: path.into(),
            layer,
            offset,
            len,
            process: Arc::new(Process { pid: pid % 3, comm: comm.into() }),
            wait_ns,
        })
}

fn write(accesses: &[Access], flush_every: usize, sealed: bool) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = TraceWriter::create(file.path(), &header()).unwrap();
    for (i, access) in accesses.iter().enumerate() {
        writer.access(access).unwrap();
        if (i + 1) % flush_every == 0 {
            writer.flush().unwrap();
        }
    }
    if sealed {
        writer.finish(&end()).unwrap();
    } else {
        writer.flush().unwrap();
    }
    file
}

proptest! {
    #[test]
    fn what_is_written_is_read(accesses in prop::collection::vec(access(), 0..60), every in 1usize..20) {
        let file = write(&accesses, every, true);
        let mut reader = TraceReader::open(file.path()).unwrap();
        prop_assert_eq!(reader.header(), &header());
        let read: Vec<_> = reader.by_ref().collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(read, accesses);
        prop_assert_eq!(reader.tail(), Some(&Tail::Sealed(end())));
    }

    #[test]
    fn a_cut_file_reads_as_a_prefix(accesses in prop::collection::vec(access(), 1..40), cut in any::<prop::sample::Index>()) {
        let file = write(&accesses, 3, true);
        let bytes = fs::read(file.path()).unwrap();
        let len = cut.index(bytes.len());
        fs::write(file.path(), &bytes[..len]).unwrap();
        if let Ok(mut reader) = TraceReader::open(file.path()) {
            let read: Vec<_> = reader.by_ref().collect::<Result<_, _>>().unwrap();
            prop_assert!(accesses.starts_with(&read));
            let torn = matches!(reader.tail(), Some(Tail::Torn { good }) if *good <= len as u64);
            prop_assert!(torn);
        }
    }

    #[test]
    fn a_damaged_file_never_panics_and_reads_as_a_prefix(
        accesses in prop::collection::vec(access(), 1..20), at in any::<prop::sample::Index>(), bit in 0u8..8,
    ) {
        let file = write(&accesses, 4, true);
        let mut bytes = fs::read(file.path()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        fs::write(file.path(), &bytes).unwrap();
        if let Ok(mut reader) = TraceReader::open(file.path()) {
            let read: Vec<_> = reader.by_ref().map_while(Result::ok).collect();
            prop_assert!(accesses.starts_with(&read));
            let torn = matches!(reader.tail(), Some(Tail::Torn { .. }));
            // A flag that announces openings promises none.
            let announced = at as u64 == format::FLAGS_AT && bit == 0;
            prop_assert!(torn || announced && read == accesses);
        }
    }

    #[test]
    fn any_payload_with_a_right_checksum_is_survived(
        payload in prop::collection::vec(any::<u8>(), 0..80), deflated: bool,
    ) {
        let file = write(&[], 1, false);
        let mut bytes = fs::read(file.path()).unwrap();
        let payload = if deflated { format::deflate(&payload).unwrap() } else { payload };
        bytes.push(2);
        bytes.extend((payload.len() as u32).to_le_bytes());
        bytes.extend(format::crc(2, &payload).to_le_bytes());
        bytes.extend(&payload);
        fs::write(file.path(), &bytes).unwrap();
        let mut reader = TraceReader::open(file.path()).unwrap();
        while reader.next().is_some() {}
        prop_assert!(reader.tail().is_some());
    }
}

#[test]
fn other_files_and_newer_versions_are_refused() {
    let file = write(&[], 1, true);
    let bytes = fs::read(file.path()).unwrap();
    let open = |bytes: &[u8]| {
        fs::write(file.path(), bytes).unwrap();
        TraceReader::open(file.path()).map(|_| ()).unwrap_err()
    };
    assert!(matches!(open(b"short"), TraceError::Magic));
    assert!(matches!(open(b"something else entirely"), TraceError::Magic));
    let mut newer = bytes.clone();
    newer[8] = 9;
    assert!(matches!(open(&newer), TraceError::Version(9)));
    newer[8] = 0;
    assert!(matches!(open(&newer), TraceError::Version(0)));
    let mut feature = bytes.clone();
    feature[10] = 2;
    assert!(matches!(open(&feature), TraceError::Features(2)));
    let mut header = bytes;
    header[30] ^= 1;
    assert!(matches!(open(&header), TraceError::Header(_)));
}

/// A trace of one access as version 1 had it.
#[test]
fn the_first_version_is_read() {
    let file = write(&[], 1, false);
    let mut bytes = fs::read(file.path()).unwrap();
    bytes[8] = 1;
    let mut payload = vec![1, 1, b'a', 2, 7, 1, b'c'];
    payload.extend([3, 20, 1, 0, 1, 100, 50, 0, 9]); // 10 ns, start, read, "a", layer 0, 100+50, process 0, 9 ns
    payload.extend([3, 1, 6, 0, 0, 200, 1, 1, 0, 0]); // 1 ns before, tail, fault, 200+1
    bytes.push(2);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(format::crc(2, &payload).to_le_bytes());
    bytes.extend(&payload);
    fs::write(file.path(), &bytes).unwrap();
    let mut reader = TraceReader::open(file.path()).unwrap();
    let read: Vec<_> = reader.by_ref().collect::<Result<_, _>>().unwrap();
    let access = |t_ns, phase, kind, layer, offset, len, wait_ns| Access {
        t_ns,
        phase,
        kind,
        path: Arc::from(&b"a"[..]),
        layer,
        offset,
        len,
        process: Arc::new(Process { pid: 7, comm: Arc::from(&b"c"[..]) }),
        wait_ns,
    };
    let expected = [
        access(10, Phase::Start, AccessKind::Read, Some(0), 100, 50, 9),
        access(9, Phase::Tail, AccessKind::Fault, None, 200, 1, 0),
    ];
    assert_eq!((reader.version(), read.as_slice()), (1, &expected[..]));
}

#[test]
fn a_block_that_inflates_without_end_is_refused() {
    let file = write(&[], 1, false);
    let mut bytes = fs::read(file.path()).unwrap();
    let payload = format::deflate(&vec![0; format::MAX_BLOCK + 1]).unwrap();
    bytes.push(2);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(format::crc(2, &payload).to_le_bytes());
    bytes.extend(&payload);
    fs::write(file.path(), &bytes).unwrap();
    let mut reader = TraceReader::open(file.path()).unwrap();
    assert!(matches!(reader.next(), Some(Err(TraceError::Malformed { .. }))));
}

#[test]
fn an_opening_is_announced_by_a_flag_and_nothing_else_is() {
    let process = Arc::new(Process { pid: 1, comm: Arc::from(&b"a"[..]) });
    let access = |kind, len| Access {
        t_ns: 1,
        phase: Phase::Start,
        kind,
        path: Arc::from(&b"p"[..]),
        layer: None,
        offset: 0,
        len,
        process: Arc::clone(&process),
        wait_ns: 0,
    };
    let read = access(AccessKind::Read, 5);
    let plain = write(std::slice::from_ref(&read), 1, true);
    assert_eq!(TraceReader::open(plain.path()).unwrap().flags(), 0, "for those who know no openings");
    let accesses = [read, access(AccessKind::Open, 0)];
    let file = write(&accesses, 1, true);
    let reader = TraceReader::open(file.path()).unwrap();
    assert_eq!(reader.flags(), 1);
    assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), accesses);
    let mut bytes = fs::read(file.path()).unwrap();
    bytes[format::FLAGS_AT as usize] = 0;
    fs::write(file.path(), bytes).unwrap();
    let last = TraceReader::open(file.path()).unwrap().last().unwrap();
    assert!(matches!(last, Err(TraceError::Malformed { .. })), "{last:?}");
}

#[test]
fn names_that_the_reader_would_refuse_are_not_written() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = TraceWriter::create(file.path(), &header()).unwrap();
    let mut access = Access {
        t_ns: 1,
        phase: Phase::Start,
        kind: AccessKind::Read,
        path: vec![b'x'; 4097].into(),
        layer: None,
        offset: 0,
        len: 1,
        process: Arc::new(Process { pid: 1, comm: Arc::from(&b"c"[..]) }),
        wait_ns: 0,
    };
    assert!(matches!(writer.access(&access), Err(TraceError::TooLong { what: "path", .. })));
    access.path = Arc::from(&b"x"[..]);
    assert!(writer.access(&access).is_ok());
    assert_eq!(writer.accesses(), 1);
}
