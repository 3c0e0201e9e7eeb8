//! Records of the artifacts in the store: which zTOC is of which layer, which index of which image.
//!
//! The directory `<root>/artifacts` is the state: one JSON file for each artifact, named by its digest, and a prefetch
//! artifact's also by its layer. Records are written under the lock on `lock`. What must
//! always hold: a record that can be read is complete; a file that is not a record of this version is an error, not
//! an empty answer.

use std::{
    fmt::Display,
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    ContentStore, StoreError,
    ingest::{Ingest, sweep, sync_dir},
    lock::Lock,
};
use crate::{digest::Digest, image::Descriptor};

/// End of the name of a record that was forgotten.
const FORGOTTEN: &str = "forgotten";

/// What an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// A SOCI index manifest.
    SociIndex,
    /// A zTOC.
    SociLayer,
    /// A prefetch artifact.
    SociPrefetch,
    /// The manifest of an image's fine indexes.
    FineIndex,
    /// The manifest of a working-set pack.
    Pack,
}

/// One artifact of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Digest of the artifact's blob.
    pub digest: Digest,
    /// What it is.
    pub kind: ArtifactKind,
    /// For an index, a fine index or a pack: the image manifest. For a zTOC or prefetch artifact: the layer.
    pub oci_digest: Digest,
    /// For an index: what the image's name pointed to (an image index or the manifest itself).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<Digest>,
    /// For an index: the image as the user named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_ref: Option<String>,
    /// For an index: `os/arch[/variant]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Media type of the blob.
    pub media_type: String,
    /// For an index: its version by artifact type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// When the record was made.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub created_at: Timestamp,
    /// For a zTOC: the span size asked for, bytes.
    #[serde(default)]
    pub span_size: u64,
    /// For a zTOC: which rule placed the checkpoints. Absent for upstream's rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span_layout: Option<String>,
    /// Size of the blob in bytes.
    pub size: u64,
    /// The blob is in containerd, which has to be asked before the record may go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_containerd: bool,
}

impl Artifact {
    /// The record, made now, of what `blob` names: in `store`, about the image manifest or layer `of`.
    pub fn new(kind: ArtifactKind, blob: &Descriptor, of: Digest, store: &ContentStore) -> Self {
        Self {
            digest: blob.digest,
            kind,
            oci_digest: of,
            image_digest: None,
            image_ref: None,
            platform: None,
            media_type: blob.media_type.clone(),
            artifact_type: blob.artifact_type.clone(),
            created_at: Timestamp::now(),
            span_size: 0,
            span_layout: None,
            size: blob.size,
            in_containerd: matches!(store, ContentStore::Containerd(_)),
        }
    }
}

/// A handle on the records. Cloning it is cheap.
#[derive(Clone, Debug)]
pub struct Artifacts {
    dir: PathBuf,
}

impl Artifacts {
    /// Opens the records below `root`; makes the directory if it is not there.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let records = Self { dir: root.join("artifacts") };
        let ingest = records.ingest_dir();
        fs::create_dir_all(&ingest).map_err(StoreError::io("create", &ingest))?;
        sweep(&ingest).map_err(StoreError::io("clean", &ingest))?;
        Ok(records)
    }

    /// Writes a record, replacing the one of the same artifact.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&self, artifact: &Artifact) -> Result<(), StoreError> {
        self.write(&self.lock()?, artifact)
    }

    /// Changes the record of a digest; nobody else changes it meanwhile.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none; others when it cannot be read or written.
    pub fn update(&self, digest: &Digest, change: impl FnOnce(&mut Artifact)) -> Result<(), StoreError> {
        let lock = self.lock()?;
        let mut artifact = self.get(digest)?;
        change(&mut artifact);
        self.write(&lock, &artifact)
    }

    fn write(&self, _: &Lock, artifact: &Artifact) -> Result<(), StoreError> {
        let path = self.path_of(artifact);
        let json = serde_json::to_vec(artifact).expect("a record always encodes");
        let mut ingest = Ingest::create(&self.ingest_dir())?;
        ingest.file.write_all(&json).map_err(StoreError::io("write", &path))?;
        ingest.publish(&path)?;
        // Earlier versions had one name for the artifacts of all layers.
        let plain = self.path(&artifact.digest);
        if plain != path && load(plain.clone())?.is_some_and(|old| old.oci_digest == artifact.oci_digest) {
            fs::remove_file(&plain).map_err(StoreError::io("remove", plain))?;
        }
        Ok(())
    }

    /// An empty file without a name, for what is too large for memory; it goes away when it is closed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<fs::File, StoreError> {
        let dir = self.ingest_dir();
        Ingest::create(&dir)?.file.try_clone().map_err(StoreError::io("open", dir))
    }

    /// Whether there is a record of that digest and kind about `of`.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn has(&self, digest: &Digest, kind: ArtifactKind, of: &Digest) -> Result<bool, StoreError> {
        for path in self.paths(digest)? {
            if load(path)?.is_some_and(|record| record.kind == kind && record.oci_digest == *of) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The record of a digest; of several, for layers with equal prefetch artifacts, any.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none; others when it cannot be read.
    pub fn get(&self, digest: &Digest) -> Result<Artifact, StoreError> {
        if let Some(artifact) = load(self.path(digest))? {
            return Ok(artifact);
        }
        for path in
            self.paths(digest)?.into_iter().filter(|path| path.extension().is_none_or(|end| end != FORGOTTEN))
        {
            if let Some(artifact) = load(path)? {
                return Ok(artifact);
            }
        }
        Err(StoreError::NotFound(*digest))
    }

    /// All records, sorted by digest.
    ///
    /// # Errors
    /// When the directory or a record cannot be read.
    pub fn list(&self) -> Result<Vec<Artifact>, StoreError> {
        let failed = || StoreError::io("read", &self.dir);
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            if path.extension().is_some_and(|e| e == "json") {
                records.extend(load(path)?);
            }
        }
        records.sort_by_key(|a: &Artifact| (a.digest, a.oci_digest));
        Ok(records)
    }

    /// Removes the records of a digest; the blob stays.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none; others when it cannot be removed.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let mut found = false;
        for path in self.paths(digest)? {
            match fs::remove_file(&path) {
                Ok(()) => found = true,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::io("remove", path)(error)),
            }
        }
        if !found {
            return Err(StoreError::NotFound(*digest));
        }
        sync_dir(&self.dir)
    }

    /// Removes the record of a digest from all listings, but keeps it beside them: [`Artifacts::recall`] brings it back, until
    /// the store is pruned.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none; others when the directory cannot be changed.
    pub fn forget(&self, digest: &Digest) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        rename(&self.path(digest), &self.forgotten_path(digest), digest)?;
        sync_dir(&self.dir)
    }

    /// Brings back the record that was forgotten, if there is one. True: it is there again.
    ///
    /// # Errors
    /// When the directory cannot be changed.
    pub fn recall(&self, digest: &Digest) -> Result<bool, StoreError> {
        let _lock = self.lock()?;
        match rename(&self.forgotten_path(digest), &self.path(digest), digest) {
            Err(StoreError::NotFound(_)) => Ok(false),
            renamed => renamed.map(|()| true),
        }
    }

    /// The digests whose records were forgotten.
    pub(super) fn forgotten(&self) -> Result<Vec<Artifact>, StoreError> {
        let failed = || StoreError::io("read", &self.dir);
        let mut forgotten = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            if path.extension().is_some_and(|end| end == FORGOTTEN) {
                forgotten.extend(load(path)?);
            }
        }
        Ok(forgotten)
    }

    fn forgotten_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.{FORGOTTEN}", digest.hex()))
    }

    /// Every file with a record of the digest.
    fn paths(&self, digest: &Digest) -> Result<Vec<PathBuf>, StoreError> {
        let failed = || StoreError::io("read", &self.dir);
        let (start, mut paths) = (format!("{}.", digest.hex()), Vec::new());
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            let path = entry.path();
            let is_record = path.extension().is_some_and(|end| end == "json" || end == FORGOTTEN);
            if is_record && name.to_str().is_some_and(|name| name.starts_with(&start)) {
                paths.push(path);
            }
        }
        Ok(paths)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.json", digest.hex()))
    }

    /// Two layers may have equal prefetch artifacts, so theirs have the layer in their names. All else is of one thing.
    fn path_of(&self, artifact: &Artifact) -> PathBuf {
        match artifact.kind {
            ArtifactKind::SociPrefetch => {
                self.dir.join(format!("{}.{}.json", artifact.digest.hex(), artifact.oci_digest.hex()))
            }
            _ => self.path(&artifact.digest),
        }
    }

    fn lock(&self) -> Result<Lock, StoreError> {
        let path = self.dir.join("lock");
        Lock::wait(&path, true).map_err(StoreError::io("lock", &path))
    }

    fn ingest_dir(&self) -> PathBuf {
        self.dir.join("ingest")
    }
}

fn rename(from: &Path, to: &Path, digest: &Digest) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|error| match error.kind() {
        ErrorKind::NotFound => StoreError::NotFound(*digest),
        _ => StoreError::io("rename", from)(error),
    })
}

/// Reads a record; `None` when it has been removed meanwhile.
fn load(path: PathBuf) -> Result<Option<Artifact>, StoreError> {
    match fs::read(&path) {
        Ok(json) => match serde_json::from_slice(&json) {
            Ok(artifact) => Ok(Some(artifact)),
            Err(source) => Err(StoreError::Record { path, source }),
        },
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::io("read", path)(e)),
    }
}

fn as_text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}
