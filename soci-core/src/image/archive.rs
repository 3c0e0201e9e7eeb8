//! An OCI image layout inside a tar file, read in place: nothing is unpacked.
//!
//! Owns the table of members. What must always hold: a member is only read within the range that the tar header gave
//! it, and [`Archive::read`] never returns a blob of another digest.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom, Take},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{Descriptor, ImageError, ImageIndex, MAX_MANIFEST};
use crate::{
    compression::format::LayerFormat,
    digest::Digest,
    media_type,
    tar::{Entry, EntryKind, Parser, Sink, Special, TarError},
    units::ByteRange,
};

/// Most members an image archive may have.
const MAX_MEMBERS: usize = 1 << 20;

/// A layout in a tar. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Archive {
    path: PathBuf,
    members: Arc<HashMap<Vec<u8>, ByteRange>>,
}

#[derive(Default)]
struct Members(HashMap<Vec<u8>, ByteRange>);

impl Sink for Members {
    type Error = TarError;

    fn entry(&mut self, entry: Entry) -> Result<(), TarError> {
        if entry.kind == EntryKind::Reg {
            let name = entry.name.strip_prefix(b"./").unwrap_or(&entry.name).to_vec();
            let end = entry.content_offset.saturating_add(entry.size);
            self.0.insert(name, ByteRange::new(entry.content_offset, end));
        }
        Ok(())
    }

    /// A sparse member cannot be read in place; to its readers it is not there.
    fn special(&mut self, entry: Entry, special: Special) -> Result<(), TarError> {
        if special == Special::Contiguous { self.entry(entry) } else { Ok(()) }
    }

    fn data(&mut self, _: &[u8]) -> Result<(), TarError> {
        Ok(())
    }

    fn hole(&mut self, _: u64) -> Result<(), TarError> {
        Ok(())
    }
}

impl Archive {
    /// Reads the tar once and notes where its members are.
    ///
    /// # Errors
    /// When the file cannot be read or is not a tar.
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let mut parser = Parser::new();
        let mut members = Members::default();
        let not_a_tar = |source| ImageError::Archive { path: path.to_owned(), source };
        let mut buffer = vec![0u8; 256 << 10];
        let mut first = true;
        loop {
            let read = match file.read(&mut buffer).map_err(failed)? {
                0 => break,
                n => &buffer[..n],
            };
            if std::mem::take(&mut first)
                && let compression @ (LayerFormat::Gzip | LayerFormat::Zstd) = LayerFormat::of(read)
            {
                let compression = compression.name();
                return Err(ImageError::CompressedArchive { path: path.to_owned(), compression });
            }
            parser.push(read, &mut members).map_err(not_a_tar)?;
            if members.0.len() > MAX_MEMBERS {
                return Err(ImageError::TooManyMembers { path: path.to_owned(), limit: MAX_MEMBERS });
            }
        }
        parser.finish().map_err(not_a_tar)?;
        Ok(Self { path: path.to_owned(), members: Arc::new(members.0) })
    }

    /// The manifests listed in the archive's `index.json`.
    ///
    /// # Errors
    /// When the file is absent or not an index.
    pub fn index(&self) -> Result<Vec<Descriptor>, ImageError> {
        let mut raw = Vec::new();
        let member = self.member(b"index.json").ok_or_else(|| ImageError::NoIndex(self.path.clone()))??;
        member
            .take(MAX_MANIFEST as u64 + 1)
            .read_to_end(&mut raw)
            .map_err(|source| ImageError::Read { path: self.path.clone(), source })?;
        Ok(ImageIndex::parse(raw.into(), media_type::OCI_INDEX)?.manifests)
    }

    /// The whole blob, at most `limit` bytes, its digest checked.
    ///
    /// # Errors
    /// When it is absent, larger, unreadable, or its bytes are damaged.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Bytes, ImageError> {
        let mut raw = Vec::new();
        let member = self.open_blob(digest)?;
        if member.limit() > limit {
            return Err(ImageError::BlobTooLarge { digest: *digest, limit });
        }
        { member }
            .read_to_end(&mut raw)
            .map_err(|source| ImageError::Read { path: self.path.clone(), source })?;
        match Digest::of(&raw) {
            actual if actual == *digest => Ok(raw.into()),
            actual => Err(ImageError::Mismatch { expected: *digest, actual }),
        }
    }

    /// The archive's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where in the archive the blob is.
    ///
    /// # Errors
    /// When it is absent.
    pub fn blob_range(&self, digest: &Digest) -> Result<ByteRange, ImageError> {
        self.members.get(blob_name(digest).as_bytes()).copied().ok_or(ImageError::NoBlob(*digest))
    }

    /// The blob's bytes; the caller checks the digest.
    ///
    /// # Errors
    /// When it is absent or the archive cannot be opened.
    pub fn open_blob(&self, digest: &Digest) -> Result<Take<File>, ImageError> {
        self.member(blob_name(digest).as_bytes()).unwrap_or(Err(ImageError::NoBlob(*digest)))
    }

    fn member(&self, name: &[u8]) -> Option<Result<Take<File>, ImageError>> {
        let range = self.members.get(name)?;
        let open = || {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(range.start))?;
            Ok(file.take(range.len()))
        };
        Some(open().map_err(|source| ImageError::Read { path: self.path.clone(), source }))
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
