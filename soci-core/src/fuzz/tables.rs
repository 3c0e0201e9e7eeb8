//! zTOCs, fine tables and bundles: any bytes, and flatbuffers whose objects share theirs.
//!
//! Owns nothing.

use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, Table, TableFinishedWIPOffset, UnionWIPOffset, WIPOffset};

use super::{MOST_PLAIN, Seed, bounded};
use crate::digest::Digest;
use crate::flat::slot;
use crate::units::{ByteRange, SpanId};
use crate::ztoc::{Bundle, Window, Ztoc, extract_span};

/// Most bytes of a flatbuffer that is made of a seed.
const LONGEST: usize = 4 << 20;

/// A zTOC that opens names nothing outside of its layer and its archive, and its spans can be asked for.
pub fn ztoc_open(bytes: &[u8]) {
    let input = Bytes::copy_from_slice(bytes);
    if let Ok(ztoc) = bounded(bytes.len(), || Ztoc::open(input)) {
        within(&ztoc, bytes);
    }
}

/// The same for a fine table, whose windows fill their blob in the order of spans, and whose coarse starts ascend.
pub fn fine_table(bytes: &[u8]) {
    let input = Bytes::copy_from_slice(bytes);
    let Ok(table) = bounded(bytes.len(), || Ztoc::open_table(input)) else { return };
    within(&table, bytes);
    assert!(table.coarse().is_sorted() && table.coarse().iter().all(|&at| at <= table.uncompressed_size()));
    let Some(windows) = table.windows() else { return };
    let mut at = 0;
    for place in (0..table.spans().len()).filter_map(|span| windows.of(SpanId(span))) {
        assert!(place.range.start == at && !place.range.is_empty());
        at = place.range.end;
        assert!(Window::open(&place, bytes).is_err(), "a table does not hold its own windows");
    }
    assert_eq!(at, windows.size());
}

/// A bundle names each layer once, and gives only tables of that layer.
pub fn fine_bundle(bytes: &[u8]) {
    let input = Bytes::copy_from_slice(bytes);
    let Ok(bundle) = bounded(bytes.len(), || Bundle::open(input)) else { return };
    for layer in bundle.layers() {
        let length = bundle.length(&layer).unwrap_or_default();
        if let Some(Ok(table)) = bounded(length as usize, || bundle.table(&layer)) {
            assert_eq!(table.layer(), Some(layer));
        }
    }
}

/// What a zTOC or table says lies within its layer and its archive; its spans can be given any bytes.
fn within(ztoc: &Ztoc, bytes: &[u8]) {
    let archive = ByteRange::new(0, ztoc.uncompressed_size());
    let mut header_end = 0;
    for file in ztoc.files() {
        assert!(file.header_offset >= header_end && file.header_offset < file.content_offset);
        assert!(archive.contains_range(&file.content_range()));
        assert!(!file.name.contains(&0));
        header_end = file.content_range().end;
        let _ = file.xattrs_schily().count();
        let _ = ztoc.spans().spans_covering(file.content_range());
    }
    let (spans, mut at, window) = (ztoc.spans(), 0, Window::from_plain(bytes));
    for span in (0..spans.len()).map(SpanId) {
        let (compressed, plain) = (spans.compressed_range(span), spans.uncompressed_range(span));
        assert!(!compressed.is_empty() && compressed.end <= ztoc.compressed_size());
        assert_eq!(plain.start, at);
        at = plain.end;
        if span.0 < 8 && compressed.len() <= bytes.len() as u64 {
            let mut out = 0;
            let taken =
                extract_span(ztoc, span, Some(&window), &bytes[..compressed.len() as usize], &mut |chunk| {
                    out += chunk.len() as u64;
                    if out > MOST_PLAIN { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
                });
            assert!(taken.is_err() || out == plain.len());
        }
    }
    assert_eq!(at, if spans.is_empty() { 0 } else { archive.end });
}

/// A zTOC of few texts and tables that are named again and again, and with offsets that were changed: as itself, and as the
/// files of a fine table.
pub fn ztoc_shapes(bytes: &[u8]) {
    let mut seed = Seed(bytes);
    let is_table = seed.flag();
    let mut ztoc = shape(&mut seed, is_table);
    for _ in 0..seed.below(4) {
        let at = seed.below(ztoc.len().saturating_sub(4).max(1));
        if let Some(word) = ztoc.get_mut(at..at + 4) {
            word.copy_from_slice(&(seed.number() as u32).to_le_bytes());
        }
    }
    if is_table {
        let packed = zstd::bulk::compress(&ztoc, 1).expect("zstd takes any bytes");
        let mut table = b"SOCIFINE".to_vec();
        table.extend([1_u32, 0].into_iter().flat_map(u32::to_le_bytes));
        table.extend(Digest::of(b"layer").as_bytes());
        table.extend([SIZE, SIZE, SIZE].into_iter().flat_map(i64::to_le_bytes));
        table.extend([0; 40]);
        table.extend([2, 1, 0, 0, 0, ztoc.len() as u32].into_iter().flat_map(u32::to_le_bytes));
        table.extend(Digest::of(b"span").as_bytes());
        table.extend(packed);
        fine_table(&table);
    } else {
        ztoc_open(&ztoc);
    }
}

/// Bytes of the layer, and of its tar.
const SIZE: i64 = 1 << 40;

fn shape(seed: &mut Seed<'_>, is_table: bool) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::new();
    let mut texts = vec![builder.create_byte_string(b"reg")];
    for _ in 0..=seed.below(4) {
        let length = [0, 1, 20, 71, 4096, 1 << 20][seed.below(6)];
        let text = match seed.below(3) {
            0 => Digest::of(b"span").to_string().into_bytes(),
            1 => b"2023-11-14T22:13:20.123456789Z".to_vec(),
            _ => vec![b'a'; length],
        };
        texts.push(builder.create_byte_string(&text));
    }
    let mut records: Vec<WIPOffset<Table<'_>>> = Vec::new();
    for _ in 0..seed.below(3) {
        let (key, value) = (texts[seed.below(texts.len())], texts[seed.below(texts.len())]);
        let table = builder.start_table();
        builder.push_slot_always(slot(0), key);
        builder.push_slot_always(slot(1), value);
        records.push(WIPOffset::new(builder.end_table(table).value()));
    }
    let times = seed.count();
    let records: Vec<_> =
        records.iter().copied().cycle().take(if records.is_empty() { 0 } else { times }).collect();
    let records = builder.create_vector(&records);
    let (mut files, mut at): (Vec<WIPOffset<TableFinishedWIPOffset>>, i64) = (Vec::new(), 0);
    for _ in 0..seed.count().min(4096) {
        at += 512;
        let field = |seed: &mut Seed<'_>| texts[seed.below(texts.len())];
        let (name, link, time) = (field(seed), field(seed), field(seed));
        let table = builder.start_table();
        builder.push_slot_always(slot(0), name);
        builder.push_slot_always(slot(1), texts[0]);
        builder.push_slot::<i64>(slot(2), at, 0);
        builder.push_slot_always(slot(4), link);
        if seed.flag() {
            builder.push_slot_always(slot(10), time);
        }
        if seed.flag() {
            builder.push_slot_always(slot(13), records);
        }
        files.push(builder.end_table(table));
    }
    let times = seed.count();
    let files: Vec<WIPOffset<Table<'_>>> = files
        .iter()
        .map(|file| WIPOffset::new(file.value()))
        .cycle()
        .take(if files.is_empty() { 0 } else { times })
        .collect();
    let files = builder.create_vector(&files);
    let digests = if is_table { 0 } else { seed.count() };
    let text = texts[seed.below(texts.len())];
    let digests: Vec<WIPOffset<UnionWIPOffset>> = vec![WIPOffset::new(text.value()); digests];
    let count = digests.len() as i64;
    let digests = builder.create_vector(&digests);
    let table = builder.start_table();
    builder.push_slot_always(slot(0), files);
    let toc = builder.end_table(table);
    // The blob of a plain tar is a flatbuffer in the flatbuffer.
    let mut tar = FlatBufferBuilder::new();
    let zinfo = tar.start_table();
    tar.push_slot::<i32>(slot(0), 2, 0);
    tar.push_slot::<i64>(slot(1), SIZE / count.max(1), 0);
    tar.push_slot::<i64>(slot(2), SIZE, 0);
    let zinfo = tar.end_table(zinfo);
    tar.finish_minimal(zinfo);
    let blob = (!is_table).then(|| builder.create_vector(tar.finished_data()));
    let table = builder.start_table();
    builder.push_slot::<i8>(slot(0), 2, 0);
    builder.push_slot::<i32>(slot(1), count as i32 - 1, 0);
    builder.push_slot_always(slot(2), digests);
    if let Some(blob) = blob {
        builder.push_slot_always(slot(3), blob);
    }
    let compression = builder.end_table(table);
    let table = builder.start_table();
    builder.push_slot::<i64>(slot(2), SIZE, 0);
    builder.push_slot::<i64>(slot(3), SIZE, 0);
    builder.push_slot_always(slot(4), toc);
    builder.push_slot_always(slot(5), compression);
    let root = builder.end_table(table);
    builder.finish_minimal(root);
    let mut bytes = builder.finished_data().to_vec();
    bytes.truncate(LONGEST * 4);
    bytes
}
