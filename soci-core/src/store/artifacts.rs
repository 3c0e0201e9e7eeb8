//! Records of the artifacts in the store: which zTOC is of which layer, which index of which image.
//!
//! The directory `<root>/artifacts` is the state: one JSON file for each artifact, named by its digest. What must
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
    StoreError,
    ingest::{Ingest, sweep},
};
use crate::digest::Digest;

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

    /// Writes a record, replacing the one of the same digest.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&self, artifact: &Artifact) -> Result<(), StoreError> {
        let path = self.path(&artifact.digest);
        let json = serde_json::to_vec(artifact).expect("a record always encodes");
        let mut ingest = Ingest::create(&self.ingest_dir())?;
        ingest.file.write_all(&json).map_err(StoreError::io("write", &path))?;
        ingest.publish(&path)
    }

    /// An empty file without a name, for what is too large for memory; it goes away when it is closed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn scratch(&self) -> Result<fs::File, StoreError> {
        let dir = self.ingest_dir();
        Ingest::create(&dir)?.file.try_clone().map_err(StoreError::io("open", dir))
    }

    /// The record of a digest.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none; others when it cannot be read.
    pub fn get(&self, digest: &Digest) -> Result<Artifact, StoreError> {
        load(self.path(digest))?.ok_or(StoreError::NotFound(*digest))
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
        records.sort_by_key(|a: &Artifact| a.digest);
        Ok(records)
    }

    /// Removes the record of a digest; the blob stays.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is none; others when it cannot be removed.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        fs::remove_file(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => StoreError::NotFound(*digest),
            _ => StoreError::io("remove", path)(e),
        })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.json", digest.hex()))
    }

    fn ingest_dir(&self) -> PathBuf {
        self.dir.join("ingest")
    }
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
