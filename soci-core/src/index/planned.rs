//! What building for a trace adds: a look into every layer of the image, and layers kept for a second look.
//!
//! Owns nameless copies of a registry's layers for the length of one build. What must always hold: a layer's table is
//! complete or absent, and a table is only used if the layer's bytes had the right digest.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

use tokio::runtime::Handle;

use super::{Event, Told, layer::LayerBuildError};
use crate::{
    compression::{
        format::{LayerFormat, layer_format},
        gzip::{Event as ScanEvent, Scanner},
        zstd,
    },
    digest::Hasher,
    image::{Descriptor, Image, LayerReader},
    prefetch::LayerFile,
    store::ContentStore,
    tar::{ContentDigests, ContentHasher, Entry, Parser, Sink, Special, TarError},
    units::ByteRange,
};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// A layer's compressed bytes, from where they are nearest.
#[derive(Debug)]
pub(crate) enum LayerBytes {
    Image(LayerReader),
    Copy(File),
}

impl Read for LayerBytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Image(reader) => reader.read(buffer),
            Self::Copy(file) => file.read(buffer),
        }
    }
}

/// Opens a layer's bytes. `copy` is a nameless copy of them, if one was made.
pub(crate) fn open(
    image: &Image,
    layer: &Descriptor,
    copy: Option<&File>,
    runtime: &Handle,
) -> Result<LayerBytes, LayerBuildError> {
    let Some(copy) = copy else {
        return Ok(LayerBytes::Image(runtime.block_on(image.open_layer(layer))?));
    };
    let rewound = copy.try_clone().and_then(|mut file| file.seek(SeekFrom::Start(0)).map(|_| file));
    Ok(LayerBytes::Copy(rewound.map_err(LayerBuildError::Copy)?))
}

/// Copies a layer that lies in a registry into a nameless local file; a local layer is left where it is.
pub(super) fn copy(
    image: &Image,
    layer: &Descriptor,
    store: &ContentStore,
    runtime: &Handle,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Option<File>, LayerBuildError> {
    let (Some(_), ContentStore::Layout(layout)) = (image.source.repository(), store) else { return Ok(None) };
    let mut writer = layout.writer()?;
    let mut bytes = Told { inner: open(image, layer, None, runtime)?, blob: layer, tell };
    io::copy(&mut bytes, &mut writer).map_err(LayerBuildError::Copy)?;
    Ok(Some(writer.into_anonymous(layer.digest)?))
}

/// What a walk over a layer found.
#[derive(Debug)]
pub(crate) struct Walked {
    /// The files of its tar; of a sparse file, only the length of its content is right.
    pub(crate) files: Vec<LayerFile>,
    /// A zTOC could describe it.
    pub(crate) in_parts: bool,
    /// Uncompressed offsets at which a deflate block or a zstd frame ends, ascending; empty for a plain tar.
    pub(crate) blocks: Vec<u64>,
    /// What the files contain; empty unless it was asked for.
    pub(crate) contents: ContentDigests,
}

/// Walks over a layer, and with `contents` hashes what its files contain. An error that [`LayerBuildError::skips`] is of a layer that
/// nobody can unpack.
pub(crate) fn walk(layer: &Descriptor, bytes: impl Read, contents: bool) -> Result<Walked, LayerBuildError> {
    let mut parser = Parser::new();
    let mut table = Table { contents: contents.then(ContentHasher::default), ..Table::default() };
    let (mut blocks, mut at) = (Vec::new(), 0);
    plain(layer, bytes, &mut |plain, ended| {
        at += plain.len() as u64;
        if ended.is_some() {
            blocks.push(at);
        }
        Ok(parser.push(plain, &mut table)?)
    })?;
    parser.finish()?;
    let contents = table.contents.map(ContentHasher::finish).unwrap_or_default();
    Ok(Walked { files: table.files, in_parts: table.in_parts, blocks, contents })
}

/// What takes the plain bytes of a layer. If a deflate block or a zstd frame ends with them: behind how many compressed bytes.
type Plain<'a> = dyn FnMut(&[u8], Option<u64>) -> Result<(), LayerBuildError> + 'a;

/// Gives the plain bytes of a layer to `sink`. The layer's digest is checked last: what `sink` got is worth nothing unless
/// this is `Ok`. Bytes of another digest are the error, whatever else is wrong with them.
pub(crate) fn plain(
    layer: &Descriptor,
    bytes: impl Read,
    sink: &mut Plain<'_>,
) -> Result<(), LayerBuildError> {
    let format = layer_format(&layer.media_type, bytes).map_err(LayerBuildError::Copy)?;
    let Some((format, mut bytes)) = format else {
        return Err(LayerBuildError::NotReadable(layer.media_type.clone()));
    };
    let mut stream = Stream::of(format)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0u8; CHUNK];
    let (mut outcome, mut at) = (Ok(()), 0);
    loop {
        match bytes.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                if outcome.is_ok() {
                    outcome = stream.push(at, &buffer[..n], sink);
                }
                at += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(LayerBuildError::Copy(e)),
        }
    }
    let actual = hasher.finish();
    if actual != layer.digest {
        return Err(LayerBuildError::Digest { expected: layer.digest, actual });
    }
    outcome.and_then(|()| stream.finish())
}

/// Reads a layer to its end, for its digest alone.
pub(super) fn check_digest(layer: &Descriptor, mut bytes: impl Read) -> Result<(), LayerBuildError> {
    let mut hasher = HashWriter(Hasher::new());
    io::copy(&mut bytes, &mut hasher).map_err(LayerBuildError::Copy)?;
    match hasher.0.finish() {
        actual if actual == layer.digest => Ok(()),
        actual => Err(LayerBuildError::Digest { expected: layer.digest, actual }),
    }
}

struct HashWriter(Hasher);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The decompressor of a layer that is walked over.
enum Stream {
    Tar,
    Gzip(Box<Scanner>),
    Zstd(Box<zstd::Scanner>),
}

impl Stream {
    fn of(format: LayerFormat) -> Result<Self, LayerBuildError> {
        Ok(match format {
            LayerFormat::Gzip => Self::Gzip(Box::new(Scanner::new())),
            LayerFormat::Tar => Self::Tar,
            LayerFormat::Zstd => Self::Zstd(Box::new(zstd::Scanner::new()?)),
        })
    }

    /// `input` begins at `at` of the compressed bytes.
    fn push(&mut self, mut at: u64, mut input: &[u8], sink: &mut Plain<'_>) -> Result<(), LayerBuildError> {
        match self {
            Self::Tar => sink(input, None)?,
            Self::Gzip(scanner) => {
                while let ScanEvent::Progress { consumed, plain, boundary } = scanner.step(input, 0)? {
                    at += consumed as u64;
                    sink(plain, boundary.map(|_| at))?;
                    input = &input[consumed..];
                }
            }
            Self::Zstd(scanner) => {
                while let Some(zstd::Progress { consumed, plain, ended }) = scanner.step(input)? {
                    at += consumed as u64;
                    sink(plain, ended.then_some(at))?;
                    input = &input[consumed..];
                }
            }
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), LayerBuildError> {
        match self {
            Self::Tar => {}
            Self::Gzip(scanner) => scanner.finish()?,
            Self::Zstd(scanner) => scanner.finish()?,
        }
        Ok(())
    }
}

/// Offsets at which the zTOC builder is to place checkpoints (at the first block end at or after each), so that spans hug
/// the needed ranges: the last block end at or before the start of each, and the first one after its end.
pub(super) fn hug(needed: &[ByteRange], blocks: &[u64]) -> Vec<u64> {
    let before = |at: u64| blocks[..blocks.partition_point(|&end| end <= at)].last().copied().unwrap_or(0);
    needed.iter().flat_map(|range| [before(range.start), range.end]).collect()
}

/// The files of a layer's tar.
pub(super) struct Table {
    pub(super) files: Vec<LayerFile>,
    in_parts: bool,
    contents: Option<ContentHasher>,
}

impl Default for Table {
    fn default() -> Self {
        Self { files: Vec::new(), in_parts: true, contents: None }
    }
}

impl Table {
    fn put(&mut self, entry: Entry) {
        self.files.push(entry.into());
    }

    /// Whether a zTOC can describe the layer.
    pub(super) fn in_parts(&self) -> bool {
        self.in_parts
    }
}

impl Sink for Table {
    type Error = TarError;

    fn entry(&mut self, entry: Entry) -> Result<(), TarError> {
        if let Some(contents) = &mut self.contents {
            contents.entry(&entry);
        }
        self.put(entry);
        Ok(())
    }

    fn special(&mut self, entry: Entry, special: Special) -> Result<(), TarError> {
        self.in_parts = false;
        if let Some(contents) = &mut self.contents {
            contents.special();
        }
        match special {
            Special::Sparse => self.put(entry),
            Special::Contiguous => self.entry(entry)?,
            Special::Global => {}
            Special::Other(_) => return Err(special.refused(&entry)),
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_hug_what_is_needed() {
        let needed = [ByteRange::new(50, 60), ByteRange::new(100, 250), ByteRange::new(900, 901)];
        assert_eq!(hug(&needed, &[0, 100, 200, 300]), [0, 60, 100, 250, 300, 901]);
        assert_eq!(hug(&needed[..1], &[]), [0, 60]);
    }
}
