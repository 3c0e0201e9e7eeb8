//! The digests of an image's files: what a profile follows a file by, from one build of an image to the next.
//!
//! Owns nothing. What must always hold: a digest is given only for a layer whose bytes have the digest that the manifest gives.

use std::collections::HashMap;

use tokio::runtime::Handle;

use super::planned::{self, Table};
use super::{Event, LayerBuildError, Told};
use crate::{
    digest::{Digest, Hasher},
    image::{Descriptor, Image},
    prefetch::{ImageView, LayerFile, VisibleKind},
    tar::{Entry, EntryKind, Parser, Sink, Special, TarError},
};

/// A regular file of an image, as a container sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    /// Path without a leading slash.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of its content.
    pub digest: Digest,
}

/// Reads all layers of an image once and gives its regular files, in no particular order. Sparse files are left out. Blocks; not to
/// be called on a thread that runs async tasks. `tell` hears of bytes that were read.
///
/// # Errors
/// When a layer cannot be read, is damaged, or is compressed in a way that cannot be read here.
pub fn file_digests(
    image: &Image,
    runtime: &Handle,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Vec<FileDigest>, LayerBuildError> {
    let (mut tables, mut digests): (Vec<Vec<LayerFile>>, Vec<_>) = (Vec::new(), Vec::new());
    for layer in image.layers() {
        let bytes = Told { inner: planned::open(image, layer, None, runtime)?, blob: layer, tell };
        let (files, of_layer) = digests_of(layer, bytes)?;
        tables.push(files);
        digests.push(of_layer);
    }
    let view = ImageView::build(tables.iter().enumerate());
    let mut files = Vec::new();
    for (path, ..) in view.visible().filter(|(.., kind)| *kind == VisibleKind::File) {
        let Ok((_, located)) = view.find(&path) else { continue };
        let size = located.content.len();
        let digest = if size == 0 {
            Some(Digest::of(b""))
        } else {
            digests[located.layer].get(&located.content.start).copied()
        };
        files.extend(digest.map(|digest| FileDigest { path, size, digest }));
    }
    Ok(files)
}

type Digests = HashMap<u64, Digest>;

fn digests_of(
    layer: &Descriptor,
    bytes: impl std::io::Read,
) -> Result<(Vec<LayerFile>, Digests), LayerBuildError> {
    let (mut parser, mut sink) = (Parser::new(), Hashing::default());
    planned::plain(layer, bytes, &mut |plain, _| Ok(parser.push(plain, &mut sink)?))?;
    parser.finish()?;
    sink.close();
    Ok((sink.table.files, sink.digests))
}

/// Hashes the content of each regular file.
#[derive(Default)]
struct Hashing {
    table: Table,
    digests: Digests,
    /// Where the content of the last entry begins, and the hash of what has come.
    open: Option<(u64, Hasher)>,
}

impl Hashing {
    fn close(&mut self) {
        if let Some((start, hasher)) = self.open.take() {
            self.digests.insert(start, hasher.finish());
        }
    }
}

impl Sink for Hashing {
    type Error = TarError;

    fn entry(&mut self, entry: Entry) -> Result<(), TarError> {
        self.close();
        if entry.kind == EntryKind::Reg && entry.size > 0 {
            self.open = Some((entry.content_offset, Hasher::new()));
        }
        self.table.entry(entry)
    }

    fn special(&mut self, entry: Entry, special: Special) -> Result<(), TarError> {
        self.close();
        self.table.special(entry, special)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        if let Some((_, hasher)) = &mut self.open {
            hasher.update(bytes);
        }
        Ok(())
    }

    fn hole(&mut self, _: u64) -> Result<(), TarError> {
        self.open = None;
        Ok(())
    }
}
