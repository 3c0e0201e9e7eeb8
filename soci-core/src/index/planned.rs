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
        gzip::{Event as ScanEvent, Scanner},
        zstd,
    },
    digest::Hasher,
    image::{Descriptor, Image, LayerReader},
    media_type::{LayerKind, layer_compression},
    prefetch::LayerFile,
    store::ContentStore,
    tar::{Entry, Parser, Sink, TarError},
    units::ByteRange,
};

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

/// A layer's compressed bytes, from where they are nearest.
#[derive(Debug)]
pub(super) enum LayerBytes {
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
pub(super) fn open(
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
pub(super) struct Walked {
    /// The entries of its tar.
    pub(super) files: Vec<LayerFile>,
    /// Uncompressed offsets at which a deflate block or a zstd frame ends, ascending; empty for a plain tar.
    pub(super) blocks: Vec<u64>,
}

/// Walks over a layer. `None` when its compression cannot be read here, or one of its entries has no place in a table.
pub(super) fn walk(layer: &Descriptor, mut bytes: impl Read) -> Result<Option<Walked>, LayerBuildError> {
    let mut walk = Walk { parser: Parser::new(), table: Table(Vec::new()), blocks: Vec::new() };
    let mut hasher = Hasher::new();
    let mut buffer = vec![0u8; CHUNK];
    let walked = Stream::of(layer).and_then(|stream| {
        let Some(mut stream) = stream else { return Ok(false) };
        loop {
            match bytes.read(&mut buffer) {
                Ok(0) => return stream.finish().and_then(|()| Ok(walk.parser.finish().map(|_| true)?)),
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    stream.push(&buffer[..n], &mut walk)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(LayerBuildError::Copy(e)),
            }
        }
    });
    match walked {
        Ok(true) => {}
        Ok(false) | Err(LayerBuildError::Zstd(_)) => return Ok(None),
        Err(LayerBuildError::Walk(error)) if error.is_unsupported() => return Ok(None),
        Err(error) => return Err(error),
    }
    match hasher.finish() {
        actual if actual == layer.digest => Ok(Some(Walked { files: walk.table.0, blocks: walk.blocks })),
        actual => Err(LayerBuildError::Digest { expected: layer.digest, actual }),
    }
}

/// The state of a walk, whatever the compression.
struct Walk {
    parser: Parser,
    table: Table,
    blocks: Vec<u64>,
}

/// The decompressor of a layer that is walked over.
enum Stream {
    Tar,
    Gzip(Box<Scanner>),
    Zstd(Box<zstd::Scanner>),
}

impl Stream {
    fn of(layer: &Descriptor) -> Result<Option<Self>, LayerBuildError> {
        Ok(match layer_compression(&layer.media_type) {
            LayerKind::Gzip => Some(Self::Gzip(Box::new(Scanner::new()))),
            LayerKind::Tar | LayerKind::Unknown => Some(Self::Tar),
            LayerKind::Zstd => Some(Self::Zstd(Box::new(zstd::Scanner::new()?))),
            _ => None,
        })
    }

    fn push(&mut self, mut input: &[u8], walk: &mut Walk) -> Result<(), LayerBuildError> {
        match self {
            Self::Tar => walk.parser.push(input, &mut walk.table)?,
            Self::Gzip(scanner) => {
                while let ScanEvent::Progress { consumed, plain, boundary } = scanner.step(input, 0)? {
                    walk.parser.push(plain, &mut walk.table)?;
                    input = &input[consumed..];
                    if boundary.is_some() {
                        walk.blocks.push(scanner.total_out());
                    }
                }
            }
            Self::Zstd(scanner) => {
                while let Some(zstd::Progress { consumed, plain, ended }) = scanner.step(input)? {
                    walk.parser.push(plain, &mut walk.table)?;
                    input = &input[consumed..];
                    if ended {
                        walk.blocks.push(scanner.total_out());
                    }
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

struct Table(Vec<LayerFile>);

impl Sink for Table {
    fn entry(&mut self, entry: Entry) -> Result<(), TarError> {
        self.0.push(entry.into());
        Ok(())
    }

    fn data(&mut self, _: &[u8]) -> Result<(), TarError> {
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
