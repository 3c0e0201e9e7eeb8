//! An OCI image layout directory: `oci-layout`, `index.json`, `blobs/sha256/<hex>`, and `ingest/` for files being
//! written.
//!
//! The directory is the state; any number of processes may use it. `index.json` is changed under a lock on
//! `oci-layout`, and what is unknown in it stays. What must always hold: a file under `blobs/` is complete, and
//! [`LayoutStore::read`] never returns bytes of another digest; what `index.json` names was on the disk before it.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Seek, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::{
    StoreError,
    ingest::{Ingest, sweep, sync_dir},
    lock::Lock,
};
use crate::{
    digest::{Digest, Hasher},
    image::{
        Descriptor, ImageIndex, MAX_MANIFEST, ManifestError,
        document::{Shape, encode},
    },
    media_type,
};

const MARKER: &str = "oci-layout";
const INDEX: &str = "index.json";

/// Most bytes of an `index.json` that is written: half of what is read, so that there is room to act. Some 20 000 manifests.
pub(super) const MAX_LISTED: usize = crate::image::MAX_MANIFEST / 2;

/// A handle on a layout directory. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct LayoutStore {
    root: PathBuf,
}

impl LayoutStore {
    /// Content of `oci-layout`.
    pub const MARKER_TEXT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

    /// Opens a layout for reading and writing; makes it if it is not there (the parent must be).
    ///
    /// # Errors
    /// When the directory cannot be made or is a layout of another version.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self { root: root.to_owned() };
        make_dir(root)?;
        make_dir(&root.join("blobs"))?;
        make_dir(&store.blob_dir())?;
        make_dir(&store.ingest_dir())?;
        sweep(&store.ingest_dir()).map_err(StoreError::io("clean", store.ingest_dir()))?;
        if !root.join(MARKER).exists() {
            store.publish(Self::MARKER_TEXT, &root.join(MARKER))?;
        }
        store.check_marker()?;
        let _lock = store.lock()?;
        if !root.join(INDEX).exists() {
            store.publish(&ImageIndex::encode(&[]), &root.join(INDEX))?;
        }
        Ok(store)
    }

    /// Opens a layout somebody else made, for reading only.
    ///
    /// # Errors
    /// When it is not a layout of version 1.
    pub fn existing(root: &Path) -> Result<Self, StoreError> {
        let store = Self { root: root.to_owned() };
        store.check_marker()?;
        Ok(store)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the blob is here.
    pub fn has(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// The whole blob, its digest checked.
    ///
    /// # Errors
    /// When it is absent, unreadable, or its bytes are damaged.
    pub fn read(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        self.read_at_most(digest, u64::MAX)
    }

    /// The whole blob, of which no more than `limit` bytes are read, its digest checked.
    ///
    /// # Errors
    /// When it is absent, larger, unreadable, or its bytes are damaged.
    pub fn read_at_most(&self, digest: &Digest, limit: u64) -> Result<Bytes, StoreError> {
        let path = self.blob_path(digest);
        let read = || {
            let mut file = File::open(&path)?;
            let size = file.metadata()?.len();
            if size > limit {
                return Ok(None);
            }
            let mut bytes = Vec::with_capacity(size as usize);
            // One more than it had: it may have grown.
            Read::by_ref(&mut file).take(size + 1).read_to_end(&mut bytes)?;
            Ok(Some(bytes))
        };
        let read = read().map_err(|e| absent_or(e, "read", path.clone(), digest))?;
        let bytes = read.ok_or(StoreError::TooLarge { digest: *digest, limit })?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(StoreError::Mismatch { expected: *digest, actual });
        }
        Ok(bytes.into())
    }

    /// The blob's file; the caller checks the digest if it reads all of it.
    ///
    /// # Errors
    /// When it is absent or cannot be opened.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|e| absent_or(e, "open", path, digest))
    }

    /// Stores bytes under their digest, replacing a damaged copy.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        self.publish(bytes, &self.blob_path(&digest))?;
        Ok(digest)
    }

    /// Stores bytes that can be had again, without waiting for the disk: when the machine goes down they may be lost, or damaged, which
    /// [`Self::read`] finds out.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn put_again(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        let target = self.blob_path(&digest);
        self.ingest(bytes, &target)?.rename(&target)?;
        Ok(digest)
    }

    /// A writer for a blob of unknown digest.
    ///
    /// # Errors
    /// When the temporary file cannot be made.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        let ingest = Ingest::create(&self.ingest_dir())?;
        Ok(BlobWriter { store: self.clone(), ingest, hasher: Hasher::new(), size: 0 })
    }

    /// Every blob with its size in bytes, in no order.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn blobs(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let dir = self.blob_dir();
        let mut blobs = Vec::new();
        for entry in fs::read_dir(&dir).map_err(StoreError::io("read", &dir))? {
            let entry = entry.map_err(StoreError::io("read", &dir))?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok());
            // A blob that goes away meanwhile is none.
            if let (Some(digest), Ok(data)) = (digest, entry.metadata()) {
                blobs.push((digest, data.len()));
            }
        }
        Ok(blobs)
    }

    /// The manifests listed in `index.json`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn index(&self) -> Result<Vec<Descriptor>, StoreError> {
        let (path, raw) = self.raw_index()?;
        let index = ImageIndex::parse(raw.into(), media_type::OCI_INDEX);
        Ok(index.map_err(|source| StoreError::Index { path, source })?.manifests)
    }

    /// Adds a manifest to `index.json`. It replaces an entry with the same tag; without a tag, one with the same
    /// digest.
    ///
    /// # Errors
    /// When the file cannot be read or written, or would be too long.
    pub fn add_manifest(&self, manifest: Descriptor) -> Result<(), StoreError> {
        let tag = |d: &Descriptor| d.annotation(media_type::REF_NAME).map(str::to_owned);
        let wanted = tag(&manifest);
        let entry = serde_json::to_value(&manifest).expect("descriptors always encode");
        self.edit(&self.lock()?, |entries| {
            let at = entries.iter().position(|old| {
                descriptor(old).is_some_and(|old| match &wanted {
                    Some(_) => tag(&old) == wanted,
                    None => old.digest == manifest.digest,
                })
            });
            match at.and_then(|at| entries.get_mut(at)) {
                // It is listed already: with all that is said now, or with a name.
                Some(old) if *old == entry => false,
                Some(old) if wanted.is_none() && descriptor(old).is_some_and(|old| tag(&old).is_some()) => {
                    false
                }
                Some(old) => {
                    *old = entry;
                    true
                }
                None => {
                    entries.push(entry);
                    true
                }
            }
        })
    }

    /// Takes entries out of `index.json`; the blobs stay.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(super) fn unlist(&self, lock: &Lock, doomed: impl Fn(&Descriptor) -> bool) -> Result<(), StoreError> {
        self.edit(lock, |entries| {
            let before = entries.len();
            entries.retain(|entry| !descriptor(entry).is_some_and(|entry| doomed(&entry)));
            entries.len() != before
        })
    }

    /// Lists one manifest in `index.json` and no other.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn list_only(&self, manifest: Descriptor) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        self.publish(&ImageIndex::encode(&[manifest]), &self.root.join(INDEX))
    }

    /// Removes a blob; one that is not there is no error. Nothing may name it any more.
    pub(crate) fn remove_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Makes removals of blobs durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        sync_dir(&self.blob_dir())
    }

    /// The lock on `index.json`, held until it is dropped.
    pub(super) fn lock(&self) -> Result<Lock, StoreError> {
        let marker = self.root.join(MARKER);
        Lock::wait(&marker, false).map_err(StoreError::io("lock", &marker))
    }

    /// Changes the entries of `index.json`. `change` says whether it has changed any.
    fn edit(&self, _: &Lock, change: impl FnOnce(&mut Vec<Value>) -> bool) -> Result<(), StoreError> {
        let (path, raw) = self.raw_index()?;
        let bad = |source: ManifestError| StoreError::Index { path: path.clone(), source };
        // What cannot be read as an index is not to be changed either.
        ImageIndex::parse(raw.clone().into(), media_type::OCI_INDEX).map_err(bad)?;
        let mut document: Map<String, Value> =
            serde_json::from_slice(&raw).map_err(|source| bad(source.into()))?;
        let mut entries = match document.remove("manifests") {
            Some(Value::Array(entries)) => entries,
            _ => Vec::new(),
        };
        let before = entries.len();
        if !change(&mut entries) {
            return Ok(());
        }
        let (grown, count) = (entries.len() > before, entries.len());
        document.insert("manifests".to_owned(), Value::Array(entries));
        let bytes = encode(&document, Shape::Index);
        if grown && bytes.len() > MAX_LISTED {
            return Err(StoreError::Full { path, entries: count, bytes: bytes.len() });
        }
        self.publish(&bytes, &path)
    }

    fn raw_index(&self) -> Result<(PathBuf, Vec<u8>), StoreError> {
        let path = self.root.join(INDEX);
        let mut raw = Vec::new();
        // One more than is parsed, which then says what the limit is.
        let read =
            File::open(&path).and_then(|file| file.take(MAX_MANIFEST as u64 + 1).read_to_end(&mut raw));
        read.map_err(StoreError::io("read", &path))?;
        Ok((path, raw))
    }

    fn publish(&self, bytes: &[u8], target: &Path) -> Result<(), StoreError> {
        self.ingest(bytes, target)?.publish(target)
    }

    fn ingest(&self, bytes: &[u8], target: &Path) -> Result<Ingest, StoreError> {
        let mut ingest = Ingest::create(&self.ingest_dir())?;
        ingest.file.write_all(bytes).map_err(StoreError::io("write", target))?;
        Ok(ingest)
    }

    fn check_marker(&self) -> Result<(), StoreError> {
        let not_a_layout = || StoreError::NotALayout(self.root.clone());
        let text = fs::read(self.root.join(MARKER)).map_err(|_| not_a_layout())?;
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|_| not_a_layout())?;
        match value.get("imageLayoutVersion").and_then(|v| v.as_str()) {
            Some(version) if version.starts_with("1.") => Ok(()),
            _ => Err(not_a_layout()),
        }
    }

    fn blob_dir(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn ingest_dir(&self) -> PathBuf {
        self.root.join("ingest")
    }

    /// Where the blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blob_dir().join(digest.hex())
    }
}

/// Writes one blob; without [`BlobWriter::commit`] nothing is kept.
#[derive(Debug)]
pub struct BlobWriter {
    store: LayoutStore,
    ingest: Ingest,
    hasher: Hasher,
    size: u64,
}

impl BlobWriter {
    /// Bytes written so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes the blob visible under its digest.
    ///
    /// # Errors
    /// When the digest is not the expected one (nothing is kept then), or the file cannot be synced.
    pub fn commit(self, expected: Option<Digest>) -> Result<Digest, StoreError> {
        let actual = self.hasher.finish();
        if let Some(expected) = expected
            && expected != actual
        {
            return Err(StoreError::Mismatch { expected, actual });
        }
        self.ingest.publish(&self.store.blob_path(&actual))?;
        Ok(actual)
    }

    /// Keeps the bytes as a nameless file that goes away when it is closed, positioned at its start.
    ///
    /// # Errors
    /// When the digest is not the expected one, or the file cannot be rewound.
    pub fn into_anonymous(self, expected: Digest) -> Result<File, StoreError> {
        let actual = self.hasher.finish();
        if expected != actual {
            return Err(StoreError::Mismatch { expected, actual });
        }
        let mut file =
            self.ingest.file.try_clone().map_err(StoreError::io("open", self.store.ingest_dir()))?;
        file.rewind().map_err(StoreError::io("rewind", self.store.ingest_dir()))?;
        Ok(file)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.ingest.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.ingest.file.flush()
    }
}

fn descriptor(entry: &Value) -> Option<Descriptor> {
    serde_json::from_value(entry.clone()).ok()
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(StoreError::io("create", path)),
    }
}

fn absent_or(error: io::Error, op: &'static str, path: PathBuf, digest: &Digest) -> StoreError {
    match error.kind() {
        ErrorKind::NotFound => StoreError::NotFound(*digest),
        _ => StoreError::io(op, path)(error),
    }
}
