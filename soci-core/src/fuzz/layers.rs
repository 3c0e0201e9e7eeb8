//! Layers: tars, gzip streams, and the checkpoints by which they are read.
//!
//! Owns nothing.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::DeflateEncoder;

use super::{MOST_PLAIN, Seed, bounded};
use crate::compression::gzip::{Checkpoint, Extractor, WINDOW, Zinfo};
use crate::compression::zstd::Frames;
use crate::tar::{Entry, Parser, Sink, Special, TarError};
use crate::units::SpanId;
use crate::ztoc::{
    BuildError, BuildOptions, Checkpointing, FineOptions, Window, Ztoc, build_gzip, build_tar, extract_span,
};

/// A checkpoint blob that decodes names windows inside of itself, and as many checkpoints as it has room for.
pub fn zinfo_decode(bytes: &[u8]) {
    if let Ok(frames) = bounded(bytes.len(), || Frames::decode(bytes)) {
        assert!(!frames.starts.is_empty() && frames.starts.len() * 16 <= bytes.len());
    }
    let Ok(zinfo) = bounded(bytes.len(), || Zinfo::decode(bytes)) else { return };
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
        // Sizes of entries without content may be more than a zTOC can say, as in upstream's tool; nothing else is refused.
        Err(error) => {
            let is_sayable = |entry: &Entry| i64::try_from(entry.size).is_ok();
            assert!(!seen.entries.iter().all(is_sayable), "{error}");
        }
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

/// A gzip layer of empty blocks, long runs and members, thousands of them: its zTOC and fine index give its bytes, and take no
/// more memory than the layer pays for.
pub fn gzip_shapes(bytes: &[u8]) {
    let mut seed = Seed(bytes);
    let (mut layer, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..=seed.below(4) {
        layer.extend([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        let from = plain.len();
        for _ in 0..seed.below(5) {
            let byte = seed.byte();
            match seed.below(3) {
                0 => layer.extend([0, 0, 0, 0xff, 0xff].repeat(seed.count().min(100_000))),
                1 => {
                    for _ in 0..seed.count().min(10_000) {
                        layer.extend([0, 1, 0, 0xfe, 0xff, byte]);
                        plain.push(byte);
                    }
                }
                _ => {
                    let run = vec![byte; seed.count().min(1 << 20)];
                    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
                    encoder.write_all(&run).and_then(|()| encoder.flush()).expect("memory is written to");
                    layer.extend(encoder.get_ref());
                    plain.extend(run);
                }
            }
        }
        // An empty last block, checksum and length.
        layer.extend([1, 0, 0, 0xff, 0xff]);
        layer.extend(crc32fast::hash(&plain[from..]).to_le_bytes());
        layer.extend(((plain.len() - from) as u32).to_le_bytes());
    }
    if plain.len() as u64 > MOST_PLAIN {
        return;
    }
    let options = BuildOptions { fine: Some(FineOptions::default()), ..BuildOptions::default() };
    let Ok(built) = bounded(layer.len(), || build_gzip(layer.as_slice(), &options)) else { return };
    let ztoc = Ztoc::open(Bytes::from(built.ztoc)).expect("it was built just now");
    gives_plain(&ztoc, &layer, &plain);
    let fine = built.fine.expect("it was asked for");
    gives_plain(&Ztoc::open_table(Bytes::from(fine.table)).expect("it was built just now"), &layer, &plain);
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
