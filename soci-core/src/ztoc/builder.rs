//! Builds the zTOC of a layer in one pass over its bytes.
//!
//! Owns the state of one build. Invariant: memory does not grow with the layer, but for the entry table and
//! 32 KiB of window for each span.

use std::io::{self, Read};

use super::Algorithm;
use super::BuildError;
use super::MAX_ZTOC;
use super::encode::{self, Contents};
use super::fine::{BuiltFine, FineOptions, FineWriter, Layer};
use super::place::{Checkpointing, Placement};
use crate::compression::gzip::{Checkpoint, Event, Scanner, ZinfoWriter};
use crate::compression::uncompressed::TarZinfo;
use crate::compression::zstd::{self, FramesWriter, MAX_FRAME, ZstdError};
use crate::digest::{Digest, Hasher};
use crate::tar::{ContentDigests, ContentHasher, Entry, Parser, Sink, Special, TarError};

/// Span size that upstream uses when none is asked for: 4 MiB of uncompressed bytes.
pub const DEFAULT_SPAN_SIZE: u64 = 1 << 22;

/// Tool name that upstream writes into every zTOC and index; part of the digests.
pub const DEFAULT_BUILD_TOOL: &str = "AWS SOCI CLI v0.2";

/// What to build. `default()` gives upstream's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOptions {
    /// Wanted uncompressed bytes per span. 0 is allowed for gzip only (a checkpoint at every block).
    pub span_size: u64,
    /// Written into the zTOC.
    pub build_tool: String,
    /// Placement of checkpoints; a plain tar always has spans of `span_size`.
    pub checkpointing: Checkpointing,
    /// Also compute the digest of the uncompressed bytes (costs one more SHA-256 pass over them).
    pub diff_id: bool,
    /// Also build a fine index in the same pass. The zTOC is the same with and without it.
    pub fine: Option<FineOptions>,
    /// Also compute the digests of what the files contain (costs one more SHA-256 pass over that).
    pub contents: bool,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            span_size: DEFAULT_SPAN_SIZE,
            build_tool: DEFAULT_BUILD_TOOL.to_owned(),
            checkpointing: Checkpointing::default(),
            diff_id: false,
            fine: None,
            contents: false,
        }
    }
}

/// A built zTOC and what one pass over the layer found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The zTOC's bytes.
    pub ztoc: Vec<u8>,
    /// Digest of the zTOC's bytes.
    pub ztoc_digest: Digest,
    /// Digest of the layer blob as read.
    pub layer_digest: Digest,
    /// Length of the layer blob in bytes.
    pub layer_size: u64,
    /// Digest of all uncompressed bytes, padding included; present when [`BuildOptions::diff_id`] asked for it.
    pub diff_id: Option<Digest>,
    /// An entry has an extended attribute, or is named `.wh..wh..opq`: the layer needs xattr support.
    pub xattrs_present: bool,
    /// The fine index, if [`BuildOptions::fine`] asked for it and its table is not larger than readers take.
    pub fine: Option<BuiltFine>,
    /// What the files contain, if [`BuildOptions::contents`] asked for it.
    pub contents: Option<ContentDigests>,
}

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// What both kinds of layers need: tar walk, digests, limits.
struct Pass {
    toc: Toc,
    parser: Parser,
    layer: Hasher,
    layer_size: u64,
    diff_id: Option<Hasher>,
    digests: Vec<Digest>,
    /// Hashes the present span; `None` before the first one.
    span: Option<Hasher>,
    fine: Option<FineWriter>,
    /// For a fine index: plain offsets of the spans so far.
    coarse: Vec<u64>,
}

/// The entries, and an upper bound of the bytes they take in the zTOC.
struct Toc {
    entries: Vec<Entry>,
    encoded: u64,
    xattrs_present: bool,
    contents: Option<ContentHasher>,
}

impl Sink for Toc {
    type Error = TarError;

    fn entry(&mut self, entry: Entry) -> Result<(), TarError> {
        self.encoded += encode::entry_size(&entry);
        self.xattrs_present |= entry.xattrs().next().is_some() || entry.name.ends_with(b".wh..wh..opq");
        if let Some(contents) = &mut self.contents {
            contents.entry(&entry);
        }
        self.entries.push(entry);
        Ok(())
    }

    /// The layer has no zTOC: that of upstream, which takes some of these for something else, gives wrong bytes.
    fn special(&mut self, entry: Entry, special: Special) -> Result<(), TarError> {
        Err(special.refused(&entry))
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        if let Some(contents) = &mut self.contents {
            contents.data(bytes);
        }
        Ok(())
    }

    fn hole(&mut self, _: u64) -> Result<(), TarError> {
        Ok(())
    }
}

impl Pass {
    fn new(options: &BuildOptions) -> Result<Self, BuildError> {
        Ok(Self {
            toc: Toc {
                entries: Vec::new(),
                encoded: 0,
                xattrs_present: false,
                contents: options.contents.then(ContentHasher::default),
            },
            parser: Parser::new(),
            layer: Hasher::new(),
            layer_size: 0,
            diff_id: options.diff_id.then(Hasher::new),
            digests: Vec::new(),
            span: None,
            fine: options.fine.map(FineWriter::new).transpose()?,
            coarse: Vec::new(),
        })
    }

    /// The next chunk of the layer; empty at its end.
    fn read<'b>(&mut self, reader: &mut impl Read, buffer: &'b mut [u8]) -> Result<&'b [u8], BuildError> {
        loop {
            match reader.read(buffer) {
                Ok(count) => {
                    let chunk = &buffer[..count];
                    self.layer.update(chunk);
                    self.layer_size += count as u64;
                    return Ok(chunk);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(BuildError::Read(error)),
            }
        }
    }

    /// Takes plain bytes. `blob` is the size of the checkpoint blob so far.
    fn plain(&mut self, plain: &[u8], blob: u64) -> Result<(), BuildError> {
        self.parser.push(plain, &mut self.toc)?;
        if let Some(diff_id) = &mut self.diff_id {
            diff_id.update(plain);
        }
        let digests = self.digests.len() as u64 * encode::DIGEST_SIZE;
        if self.toc.encoded + digests + blob > MAX_ZTOC { Err(BuildError::TooLarge) } else { Ok(()) }
    }

    /// Adds bytes of the layer to the present span, if there is one.
    fn span_bytes(&mut self, bytes: &[u8]) {
        if let Some(span) = &mut self.span {
            span.update(bytes);
        }
    }

    /// Ends the present span, if there is one, and starts the next, at `output` in the plain bytes.
    fn next_span(&mut self, output: u64) {
        if self.fine.is_some() {
            self.coarse.push(output);
        }
        if let Some(span) = self.span.replace(Hasher::new()) {
            self.digests.push(span.finish());
        }
    }

    fn finish(
        mut self,
        options: &BuildOptions,
        algorithm: Algorithm,
        checkpoints: &[u8],
    ) -> Result<Built, BuildError> {
        let end = self.parser.finish()?;
        self.digests.extend(self.span.map(Hasher::finish));
        let mut contents = Contents {
            build_tool: &options.build_tool,
            compressed_size: self.layer_size,
            uncompressed_size: end.uncompressed_archive_size,
            entries: &self.toc.entries,
            algorithm,
            checkpoints,
            digests: &self.digests,
        };
        let ztoc = encode::encode(&contents);
        let layer_digest = self.layer.finish();
        let fine = self.fine.map(|fine| {
            (contents.checkpoints, contents.digests) = (&[], &[]);
            fine.finish(&Layer {
                digest: layer_digest,
                compressed_size: contents.compressed_size,
                uncompressed_size: contents.uncompressed_size,
                algorithm,
                coarse: &self.coarse,
                files: &encode::encode(&contents),
            })
        });
        Ok(Built {
            ztoc_digest: Digest::of(&ztoc),
            ztoc,
            layer_digest,
            layer_size: self.layer_size,
            diff_id: self.diff_id.map(Hasher::finish),
            xattrs_present: self.toc.xattrs_present,
            fine: fine.transpose()?.flatten(),
            contents: self.toc.contents.map(ContentHasher::finish),
        })
    }
}

/// Builds the zTOC of a gzip layer in one pass: inflate, checkpoints, tar walk and all digests.
///
/// `reader` is read to its end in large chunks and needs no buffering.
pub fn build_gzip(mut reader: impl Read, options: &BuildOptions) -> Result<Built, BuildError> {
    let span_size = i64::try_from(options.span_size).map_err(|_| BuildError::SpanSize(options.span_size))?;
    let mut pass = Pass::new(options)?;
    let mut placement = Placement::new(options.span_size, &options.checkpointing);
    let mut checkpoints = ZinfoWriter::new(span_size);
    let mut scanner = Scanner::new();
    let mut buffer = vec![0; CHUNK];
    let mut last_byte = 0;
    loop {
        let mut input = pass.read(&mut reader, &mut buffer)?;
        if input.is_empty() {
            break;
        }
        loop {
            let out = scanner.total_out();
            let free = placement.free(out).min(pass.fine.as_ref().map_or(u64::MAX, |fine| fine.free(out)));
            let Event::Progress { consumed, plain, boundary } = scanner.step(input, free)? else { break };
            let (now, rest) = input.split_at(consumed);
            input = rest;
            pass.plain(plain, checkpoints.len())?;
            pass.span_bytes(now);
            if let Some(fine) = &mut pass.fine {
                fine.bytes(now);
            }
            last_byte = now.last().copied().unwrap_or(last_byte);
            let Some(bits) = boundary else { continue };
            if let Some(fine) = &mut pass.fine
                && fine.due(scanner.total_out())
            {
                fine.checkpoint(&scanner, bits, last_byte)?;
            }
            if placement.place(scanner.total_out()) {
                checkpoints.push(&Checkpoint {
                    input: scanner.total_in(),
                    output: scanner.total_out(),
                    bits,
                    window: scanner.window(),
                });
                pass.next_span(scanner.total_out());
                if bits != 0 {
                    // The byte that both spans have bits of.
                    pass.span_bytes(&[last_byte]);
                }
            }
        }
    }
    scanner.finish()?;
    pass.finish(options, Algorithm::Gzip, &checkpoints.finish())
}

/// Builds the zTOC of a plain tar layer in one pass.
pub fn build_tar(mut reader: impl Read, options: &BuildOptions) -> Result<Built, BuildError> {
    let span_size = i64::try_from(options.span_size)
        .ok()
        .filter(|&span_size| span_size > 0)
        .ok_or(BuildError::SpanSize(options.span_size))?;
    let mut pass = Pass::new(options)?;
    let mut buffer = vec![0; CHUNK];
    let (mut span_left, mut offset) = (0, 0);
    loop {
        let mut input = pass.read(&mut reader, &mut buffer)?;
        if input.is_empty() {
            break;
        }
        pass.plain(input, 0)?;
        if let Some(fine) = &mut pass.fine {
            fine.plain(offset, input);
        }
        while !input.is_empty() {
            if span_left == 0 {
                pass.next_span(offset);
                span_left = options.span_size;
            }
            let length = usize::try_from(span_left).map_or(input.len(), |left| left.min(input.len()));
            let (now, rest) = input.split_at(length);
            pass.span_bytes(now);
            span_left -= length as u64;
            offset += length as u64;
            input = rest;
        }
    }
    let size = i64::try_from(pass.layer_size).map_err(|_| BuildError::TooLarge)?;
    let blob = TarZinfo { span_size, size }.encode();
    pass.finish(options, Algorithm::Uncompressed, &blob)
}

/// Builds the zTOC of a zstd layer in one pass: spans are runs of whole frames.
///
/// [`Checkpointing`] is followed as far as frames end there. A layer that is one frame, or has one over
/// [`MAX_FRAME`], is an error: reading a byte of it would mean reading all of it.
pub fn build_zstd(mut reader: impl Read, options: &BuildOptions) -> Result<Built, BuildError> {
    let span_size = i64::try_from(options.span_size).map_err(|_| BuildError::SpanSize(options.span_size))?;
    let mut pass = Pass::new(options)?;
    let mut placement = Placement::new(options.span_size, &options.checkpointing);
    let mut checkpoints = FramesWriter::new(span_size);
    let mut scanner = zstd::Scanner::new()?;
    let mut buffer = vec![0; CHUNK];
    // A span begins with the next byte, if there is one.
    let mut due = placement.place(0);
    let mut fine_due = pass.fine.as_mut().is_some_and(|fine| fine.due(0));
    let (mut frames, mut frame) = (0_u32, 0_u64);
    loop {
        let mut input = pass.read(&mut reader, &mut buffer)?;
        if input.is_empty() {
            break;
        }
        loop {
            if due && !input.is_empty() {
                due = false;
                checkpoints.push(scanner.total_in(), scanner.total_out());
                pass.next_span(scanner.total_out());
            }
            if fine_due
                && !input.is_empty()
                && let Some(fine) = &mut pass.fine
            {
                fine_due = false;
                fine.start(scanner.total_in(), scanner.total_out());
            }
            let Some(zstd::Progress { consumed, plain, ended }) = scanner.step(input)? else { break };
            let (now, rest) = input.split_at(consumed);
            input = rest;
            pass.plain(plain, checkpoints.len())?;
            pass.span_bytes(now);
            if let Some(fine) = &mut pass.fine {
                fine.bytes(now);
            }
            frame += plain.len() as u64;
            if frame > MAX_FRAME {
                return Err(ZstdError::LargeFrame.into());
            }
            if ended {
                frames += u32::from(frame > 0);
                frame = 0;
                let out = scanner.total_out();
                due = out > 0 && placement.place(out);
                fine_due = out > 0 && pass.fine.as_mut().is_some_and(|fine| fine.due(out));
            }
        }
    }
    scanner.finish()?;
    if frames < 2 {
        return Err(ZstdError::OneFrame.into());
    }
    pass.finish(options, Algorithm::Zstd, &checkpoints.finish())
}
