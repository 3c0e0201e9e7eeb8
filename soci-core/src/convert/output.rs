//! A converted image as an OCI image layout: a directory or a tar.
//!
//! Holds no state. What must always hold: the layout has every blob of the image that was here and nothing else; each
//! blob that is copied or linked was checked against its digest. Layers are linked or streamed, never copied on the way.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;

use super::{ConvertError, archive::ArchiveWriter};
use crate::{
    digest::Hasher,
    image::{Descriptor, Documents, ImageError, ImageIndex, ImageSource, MAX_MANIFEST, Manifest},
    index::{Event, Told},
    media_type,
    store::{LayoutStore, StoreError, replace},
};

/// Image indexes within image indexes that are followed.
const MAX_DEPTH: usize = 8;

/// Gets an [`Event::Read`] for what is written.
type Tell<'a> = &'a (dyn Fn(Event<'_>) + Sync);

/// A converted image: new blobs in a layout of their own, the others where the original is.
#[derive(Debug)]
pub struct Output<'a> {
    /// The image index, with the annotations that name it in the layout.
    pub target: &'a Descriptor,
    /// What was made.
    pub made: &'a LayoutStore,
    /// Where the original is.
    pub source: &'a ImageSource,
    /// Drives transfers.
    pub runtime: &'a Handle,
}

impl Output<'_> {
    /// Makes the layout of new blobs a whole one and moves it to `to`, where nothing or an empty directory is; or adds the
    /// image to the layout that is there, in the place of one with the same tag. `to` has to be on the file system of the
    /// new blobs.
    ///
    /// # Errors
    /// When a blob cannot be read or is damaged, or something else is at `to`; other images at `to` are as they were.
    pub fn directory(&self, to: &Path, tell: Tell<'_>) -> Result<(), ConvertError> {
        if !is_free(to) {
            return Err(ConvertError::Occupied(to.to_owned()));
        }
        let blobs = self.blobs()?;
        if LayoutStore::existing(to).is_ok() {
            return self.add_to(&LayoutStore::open(to)?, &blobs, tell);
        }
        for blob in blobs.values().filter(|blob| !self.made.has(&blob.digest)) {
            self.place(blob, self.made, tell)?;
        }
        for (digest, _) in self.made.blobs()? {
            if !blobs.contains_key(&digest.hex()) {
                let path = self.made.blob_path(&digest);
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        self.made.list_only(self.target.clone())?;
        let ingest = self.made.root().join("ingest");
        fs::remove_dir(&ingest).map_err(failed("remove", &ingest))?;
        fs::rename(self.made.root(), to).map_err(failed("write", to))
    }

    /// Adds the image to a layout. Its name comes last, when all that it names is there.
    fn add_to(
        &self,
        layout: &LayoutStore,
        blobs: &BTreeMap<String, Descriptor>,
        tell: Tell<'_>,
    ) -> Result<(), ConvertError> {
        let mut new = Vec::new();
        let mut add = || {
            for blob in blobs.values() {
                if is_whole(layout, blob) {
                    tell(Event::Read { blob, bytes: blob.size });
                    continue;
                }
                new.push(blob.digest);
                self.place(blob, layout, tell)?;
            }
            Ok(replace(layout, self.target.clone())?)
        };
        let added: Result<(), ConvertError> = add();
        if added.is_err() {
            for digest in new {
                let _ = layout.remove_blob(&digest); // the reason to tell is the first one
            }
        }
        let _ = fs::remove_dir(layout.root().join("ingest")); // not empty: somebody else writes
        added
    }

    /// Puts a blob into a layout: linked if that is possible, else copied; checked in both cases.
    fn place(&self, blob: &Descriptor, layout: &LayoutStore, tell: Tell<'_>) -> Result<(), ConvertError> {
        let target = layout.blob_path(&blob.digest);
        let file = [self.made.blob_path(&blob.digest)].into_iter().chain(self.source.file_of(&blob.digest));
        for file in file.filter(|file| *file != target) {
            if fs::hard_link(file, &target).is_ok() {
                if is_whole(layout, blob) {
                    tell(Event::Read { blob, bytes: blob.size });
                    return Ok(());
                }
                layout.remove_blob(&blob.digest)?;
            }
        }
        let mut writer = layout.writer()?;
        let mut bytes = Told { inner: self.open(blob)?, blob, tell };
        io::copy(&mut bytes, &mut writer).map_err(failed("write", &target))?;
        writer.commit(Some(blob.digest))?;
        Ok(())
    }

    /// Writes the layout as a tar with its members sorted.
    ///
    /// # Errors
    /// When a blob cannot be read or is damaged, or the file cannot be written.
    pub fn archive(&self, to: File, path: &Path, tell: Tell<'_>) -> Result<(), ConvertError> {
        let failed = || failed("write", path);
        let mut archive = ArchiveWriter::new(io::BufWriter::with_capacity(1 << 20, to));
        for directory in ["blobs/", "blobs/sha256/"] {
            archive.directory(directory).map_err(failed())?;
        }
        for (hex, descriptor) in &self.blobs()? {
            let inner = Told { inner: self.open(descriptor)?, blob: descriptor, tell };
            let mut bytes = Checked { inner, hasher: Hasher::new() };
            let name = format!("blobs/sha256/{hex}");
            archive.file(&name, descriptor.size, &mut bytes).map_err(failed())?;
            let actual = bytes.hasher.finish();
            if actual != descriptor.digest {
                return Err(StoreError::Mismatch { expected: descriptor.digest, actual }.into());
            }
        }
        let index = ImageIndex::encode(std::slice::from_ref(self.target));
        archive.file("index.json", index.len() as u64, &index[..]).map_err(failed())?;
        let marker = LayoutStore::MARKER_TEXT;
        archive.file("oci-layout", marker.len() as u64, marker).map_err(failed())?;
        let file = archive.finish().map_err(failed())?;
        let file = file.into_inner().map_err(|error| failed()(error.into_error()))?;
        file.sync_all().map_err(failed())
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read>, ConvertError> {
        if self.made.has(&blob.digest) {
            return Ok(Box::new(self.made.open_blob(&blob.digest)?));
        }
        // A registry gives manifests by another way than blobs.
        if media_type::is_manifest(&blob.media_type) || media_type::is_index(&blob.media_type) {
            let raw = self.runtime.block_on(self.source.blob_of(blob, MAX_MANIFEST as u64))?;
            return Ok(Box::new(raw.reader()));
        }
        Ok(Box::new(self.runtime.block_on(self.source.open_layer(blob))?))
    }

    /// Every blob of the image that is here, by its name in a layout.
    fn blobs(&self) -> Result<BTreeMap<String, Descriptor>, ConvertError> {
        let (mut blobs, mut documents) = (BTreeMap::new(), Documents::new());
        self.collect(self.target, 0, &mut blobs, &mut documents)?;
        Ok(blobs)
    }

    fn collect(
        &self,
        blob: &Descriptor,
        depth: usize,
        blobs: &mut BTreeMap<String, Descriptor>,
        documents: &mut Documents,
    ) -> Result<(), ConvertError> {
        let here = self.made.has(&blob.digest) || self.runtime.block_on(self.source.has(blob))?;
        if !here || depth > MAX_DEPTH || blobs.insert(blob.digest.hex(), blob.clone()).is_some() {
            return Ok(());
        }
        let is_document = media_type::is_index(&blob.media_type) || media_type::is_manifest(&blob.media_type);
        if is_document {
            documents.read(blob).map_err(ImageError::from)?;
        }
        let raw = || -> Result<Bytes, ConvertError> {
            if self.made.has(&blob.digest) {
                return Ok(self.made.read_at_most(&blob.digest, MAX_MANIFEST as u64)?);
            }
            Ok(self.runtime.block_on(self.source.blob_of(blob, MAX_MANIFEST as u64))?)
        };
        let children = if media_type::is_index(&blob.media_type) {
            ImageIndex::parse(raw()?, &blob.media_type)?.manifests
        } else if media_type::is_manifest(&blob.media_type) {
            let manifest = Manifest::parse(raw()?, &blob.media_type)?;
            std::iter::once(manifest.config).chain(manifest.layers).collect()
        } else {
            Vec::new()
        };
        if is_document {
            documents.entries(children.len()).map_err(ImageError::from)?;
        }
        children.iter().try_for_each(|child| self.collect(child, depth + 1, blobs, documents))
    }
}

/// Whether a layout may be put at `to`: nothing is there, or a layout, or an empty directory.
pub fn is_free(to: &Path) -> bool {
    match fs::read_dir(to) {
        Ok(mut entries) => entries.next().is_none() || LayoutStore::existing(to).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Whether a layout has a blob, with the digest that names it.
fn is_whole(layout: &LayoutStore, blob: &Descriptor) -> bool {
    let Ok(inner) = layout.open_blob(&blob.digest) else { return false };
    let mut bytes = Checked { inner, hasher: Hasher::new() };
    io::copy(&mut bytes, &mut io::sink()).is_ok() && bytes.hasher.finish() == blob.digest
}

struct Checked<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConvertError {
    let path = path.to_owned();
    move |source| ConvertError::Output { op, path, source }
}
