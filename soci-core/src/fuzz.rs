//! What must hold for any bytes at all: the bodies of the fuzz targets in `fuzz/`, one function for each.
//!
//! Only built with the feature `testing`. Owns nothing. Each function takes hostile bytes and panics when a promise of
//! the crate is broken; the fuzzer looks for such bytes, and `tests/corpora.rs` replays those that it kept.

use std::io::Read;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use crate::compression::gzip::{Checkpoint, Extractor, WINDOW, Zinfo};
use crate::digest::Digest;
use crate::image::{ImageConfig, ImageIndex, Manifest};
use crate::index::SociIndex;
use crate::media_type;
use crate::pack::{MAX_BLOCK, PackHead, open_block};
use crate::prefetch::PrefetchArtifact;
use crate::registry::parse_content_range;
use crate::tar::{Entry, Parser, Sink, Special, TarError};
use crate::units::{ByteRange, SpanId};
use crate::ztoc::{
    BuildError, BuildOptions, Bundle, Checkpointing, FineOptions, Window, Ztoc, build_gzip, build_tar,
    extract_span,
};

/// Most plain bytes that a target makes of its input, so that no input takes long.
const MOST_PLAIN: u64 = 4 << 20;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All targets by name: the names of the programs in `fuzz/fuzz_targets` and of the corpora.
pub const TARGETS: [(&str, Target); 10] = [
    ("content_range", content_range),
    ("fine_bundle", fine_bundle),
    ("fine_table", fine_table),
    ("gzip_extract", gzip_extract),
    ("index_json", index_json),
    ("pack_head", pack_head),
    ("prefetch_json", prefetch_json),
    ("tar_entries", tar_entries),
    ("zinfo_decode", zinfo_decode),
    ("ztoc_open", ztoc_open),
];

/// A zTOC that opens names nothing outside of its layer and its archive, and its spans can be asked for.
pub fn ztoc_open(bytes: &[u8]) {
    if let Ok(ztoc) = Ztoc::open(Bytes::copy_from_slice(bytes)) {
        within(&ztoc, bytes);
    }
}

/// The same for a fine table, whose windows fill their blob in the order of spans, and whose coarse starts ascend.
pub fn fine_table(bytes: &[u8]) {
    let Ok(table) = Ztoc::open_table(Bytes::copy_from_slice(bytes)) else { return };
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
    let Ok(bundle) = Bundle::open(Bytes::copy_from_slice(bytes)) else { return };
    for layer in bundle.layers() {
        if let Some(Ok(table)) = bundle.table(&layer) {
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

/// A checkpoint blob that decodes names windows inside of itself, and as many checkpoints as it has room for.
pub fn zinfo_decode(bytes: &[u8]) {
    let Ok(zinfo) = Zinfo::decode(bytes) else { return };
    assert!(!zinfo.checkpoints.is_empty() && zinfo.checkpoints.len() <= bytes.len() / WINDOW + 1);
    for checkpoint in &zinfo.checkpoints {
        assert!(checkpoint.bits <= 7 && checkpoint.start() <= checkpoint.input);
        assert!(checkpoint.window.is_none_or(|at| at + WINDOW <= bytes.len()));
    }
}

/// Entries and content do not depend on the chunking, content is as long as its entry says, and a zTOC made of the
/// archive opens and names the same entries.
pub fn tar_entries(bytes: &[u8]) {
    let Some((&chunk, archive)) = bytes.split_first() else { return };
    let parse = |chunk: usize| {
        let (mut parser, mut seen) = (Parser::new(), Seen::default());
        archive.chunks(chunk).try_for_each(|chunk| parser.push(chunk, &mut seen))?;
        parser.finish().map(|end| (seen, end))
    };
    let whole = parse(archive.len().max(1));
    let pieces = parse(usize::from(chunk).max(1));
    let (seen, end) = match (whole, pieces) {
        (Ok(whole), Ok(pieces)) => {
            assert_eq!(whole, pieces);
            whole
        }
        (Err(whole), Err(pieces)) => {
            assert_eq!(whole.to_string(), pieces.to_string());
            return;
        }
        (whole, pieces) => panic!("chunking matters: {whole:?} {pieces:?}"),
    };
    assert!(end.uncompressed_archive_size <= archive.len() as u64);
    for (entry, content) in seen.entries.iter().zip(&seen.contents) {
        let from = entry.content_offset as usize;
        assert_eq!(archive[from..from + content.len()], content[..]);
    }
    let built = build_tar(archive, &BuildOptions::default());
    if !seen.special.is_empty() {
        let refused =
            built.is_err_and(|error| matches!(error, BuildError::Tar(error) if error.is_unsupported()));
        return assert!(refused, "a zTOC has no words for {:?}", seen.special);
    }
    let built = built.expect("the archive was read just now");
    match Ztoc::open(Bytes::from(built.ztoc)) {
        Ok(ztoc) => {
            let names = ztoc.files().iter().map(|file| file.name.as_ref());
            assert!(names.eq(seen.entries.iter().map(|entry| entry.name.as_slice())));
        }
        // Time and size fields hold more than a zTOC can say, as in upstream's tool.
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Every span of a layer gives the bytes that a plain decompressor gives there, and any bytes at all can be given to a
/// span.
pub fn gzip_extract(bytes: &[u8]) {
    let Some((&[kind, a, b, bits], layer)) = bytes.split_first_chunk() else { return };
    if kind & 1 == 1 {
        let window = vec![a; WINDOW];
        let checkpoint = Checkpoint { input: 1, output: 0, bits: bits & 7, window: window.as_slice() };
        let mut out = 0;
        let mut extractor = Extractor::new(&checkpoint, MOST_PLAIN).expect("the window has the right length");
        for piece in layer.chunks(usize::from(b) + 1) {
            let taken = extractor.push(piece, &mut |plain| {
                out += plain.len() as u64;
                Ok(())
            });
            assert_eq!(out + extractor.wanted(), MOST_PLAIN);
            if taken.is_err() {
                return;
            }
        }
        return;
    }
    let options = BuildOptions {
        span_size: u64::from(a) << 8,
        checkpointing: if b == 0 {
            Checkpointing::EverySpanSize
        } else {
            Checkpointing::Boundaries(vec![u64::from(b) << 6, u64::from(bits) << 9])
        },
        diff_id: true,
        fine: Some(FineOptions { span_size: (u64::from(b) + 1) << 9 }),
        ..BuildOptions::default()
    };
    let mut plain = Vec::new();
    let inflated = MultiGzDecoder::new(layer).take(MOST_PLAIN).read_to_end(&mut plain);
    if plain.len() as u64 >= MOST_PLAIN {
        return;
    }
    let Ok(built) = build_gzip(layer, &options) else { return };
    assert!(inflated.is_ok() || layer.ends_with(&[0]), "only zeros behind the last member are passed over");
    let Ok(ztoc) = Ztoc::open(Bytes::from(built.ztoc)) else { return };
    gives_plain(&ztoc, layer, &plain);
    let fine = built.fine.expect("it was asked for");
    gives_plain(&Ztoc::open_table(Bytes::from(fine.table)).expect("the zTOC opens"), layer, &plain);
}

/// Every span gives the bytes of `plain` that it is said to, with the bytes before it as its window.
fn gives_plain(ztoc: &Ztoc, layer: &[u8], plain: &[u8]) {
    for span in (0..ztoc.spans().len()).map(SpanId) {
        let (from, to) = (ztoc.spans().compressed_range(span), ztoc.spans().uncompressed_range(span));
        let window = Window::from_plain(&plain[..to.start as usize]);
        let mut out = Vec::new();
        let compressed = &layer[from.start as usize..from.end as usize];
        extract_span(ztoc, span, Some(&window), compressed, &mut |chunk| {
            out.extend_from_slice(chunk);
            Ok(())
        })
        .expect("the span's own bytes");
        assert_eq!(out, plain[to.start as usize..to.end as usize]);
    }
}

/// Manifests, indexes and configurations that are read can be written, and read again as the same.
pub fn index_json(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(index) = SociIndex::parse(bytes.clone()) {
        let written = index.encode();
        assert_eq!(SociIndex::parse(Bytes::from(written)).expect("it was written just now"), index);
    }
    let _ = Manifest::parse(bytes.clone(), media_type::OCI_MANIFEST);
    let _ = ImageIndex::parse(bytes.clone(), media_type::OCI_INDEX);
    let _ = ImageConfig::parse(&bytes);
}

/// An artifact that is read names spans of the layer, and survives writing and reading.
pub fn prefetch_json(bytes: &[u8]) {
    let Some((&last, json)) = bytes.split_first() else { return };
    let last = SpanId(u32::from(last));
    let Ok(artifact) = PrefetchArtifact::parse(json, last) else { return };
    for range in &artifact.prefetch_spans {
        assert!(range.start_span <= range.end_span && range.end_span <= last.0);
    }
    let again = PrefetchArtifact::parse(&artifact.encode(), last).expect("it was written just now");
    assert_eq!(again, artifact);
}

/// Blocks of a head that opens follow each other in the blob and are no larger than a reader takes, no byte of a layer is
/// in two extents, and a block gives exactly the bytes of its extents.
pub fn pack_head(bytes: &[u8]) {
    let Some((&[kind, stored], bytes)) = bytes.split_first_chunk() else { return };
    // The last bytes are the first block; the head gets its digest, and a table that is not compressed yet.
    let (head, block) = bytes.split_at(bytes.len().saturating_sub(usize::from(stored)));
    let mut head = head.to_vec();
    let word = |head: &[u8], at: usize| {
        let bytes = head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, |bytes| u32::from_le_bytes(bytes) as usize)
    };
    let (layers, blocks) = (word(&head, 20), word(&head, 64));
    let digests = 80usize.saturating_add(layers.saturating_mul(32));
    if let Some(first) = head.get_mut(digests..digests.saturating_add(32)) {
        first.copy_from_slice(Digest::of(block).as_bytes());
    }
    let table = digests.saturating_add(blocks.saturating_mul(32));
    if kind & 1 == 1 && table <= head.len() {
        let plain = head.split_off(table);
        let stored = zstd::bulk::compress(&plain, 1).expect("zstd takes any bytes");
        head[12..16].copy_from_slice(&(stored.len() as u32).to_le_bytes());
        head[16..20].copy_from_slice(&(plain.len() as u32).to_le_bytes());
        head.extend(stored);
    }
    let Ok(open) = PackHead::open(&head) else { return };
    let mut end = head.len() as u64;
    for (number, it) in open.blocks().iter().enumerate() {
        assert!(it.stored.start == end && !it.stored.is_empty() && !open.extents(number).is_empty());
        assert_eq!(it.plain_len(), open.extents(number).iter().map(|extent| extent.range.len()).sum::<u64>());
        assert!(it.plain_len() <= MAX_BLOCK);
        end = it.stored.end;
    }
    assert!(end == open.size() && open.must_have() <= open.blocks().len());
    let mut sorted = open.all_extents().to_vec();
    sorted.sort_unstable();
    assert!(sorted.iter().all(|extent| !extent.range.is_empty() && usize::from(extent.layer) < layers));
    assert!(
        sorted.windows(2).all(|two| two[0].layer != two[1].layer || two[0].range.end <= two[1].range.start)
    );
    if let Ok(plain) = open_block(&open, 0, block) {
        assert_eq!(plain.len() as u64, open.blocks()[0].plain_len());
    }
}

/// What a server says about the part that it sent is a part that is not empty and within its total, or nothing.
pub fn content_range(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some((range, total)) = parse_content_range(text) {
        assert!(!range.is_empty() && total.is_none_or(|total| range.end <= total));
    }
}

/// Entries with their content, cut where no target looks any more.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    entries: Vec<Entry>,
    contents: Vec<Vec<u8>>,
    special: Vec<Special>,
    /// Bytes of holes in the last entry.
    holes: u64,
}

impl Sink for Seen {
    type Error = TarError;

    fn entry(&mut self, entry: Entry) -> Result<(), TarError> {
        self.entries.push(entry);
        self.contents.push(Vec::new());
        self.holes = 0;
        Ok(())
    }

    fn special(&mut self, entry: Entry, special: Special) -> Result<(), TarError> {
        self.special.push(special);
        self.entry(entry)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.contents.last_mut().expect("content follows an entry").extend_from_slice(bytes);
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<(), TarError> {
        assert!(length > 0 && self.special.last() == Some(&Special::Sparse));
        self.holes += length;
        let entry = self.entries.last().expect("a hole follows an entry");
        let content = self.contents.last().expect("a hole follows an entry");
        assert!(self.holes + content.len() as u64 <= entry.size);
        Ok(())
    }
}
