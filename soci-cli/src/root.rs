//! The local state as the commands see it: the records `<root>/artifacts`, and the content stores that can hold what
//! they name: `<root>/content` and containerd's.
//!
//! The directories and containerd are the state, shared with the snapshotter. Nobody connects to containerd before it
//! is needed.

use std::{
    cell::OnceCell,
    fs,
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use soci_core::{
    containerd::Containerd,
    digest::Digest,
    image::ImageSource,
    registry::Content,
    store::{self, Artifact, ArtifactKind, Artifacts, ContentStore, LayoutStore, StoreError},
};

use crate::{
    error,
    global::{Global, StoreChoice},
    hint::Hinted,
};

/// The records and the stores.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) artifacts: Artifacts,
    layout: LayoutStore,
    choice: Option<StoreChoice>,
    socket: PathBuf,
    namespace: String,
    containerd: OnceCell<Option<Containerd>>,
}

impl Root {
    /// Opens the records and our own store; makes the root directory (mode 0700) if it is missing, but not its parents.
    pub(crate) fn open(global: &Global) -> Result<Self> {
        let root = global.store_root();
        match fs::DirBuilder::new().mode(0o700).create(root) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                let message = format!("cannot make {}", root.display());
                return Err(if error.kind() == ErrorKind::PermissionDenied {
                    let message = format!("{message}: {}", error::words(&error.into()));
                    Hinted::new(message, "run as root, or choose another store with --root DIR").into()
                } else {
                    anyhow::Error::from(error).context(message)
                });
            }
            _ => {}
        }
        let own = root.join("content");
        let layout = match &global.content_store {
            Some(StoreChoice::Layout(dir)) => dir,
            _ => &own,
        };
        Ok(Self {
            artifacts: Artifacts::open(root)?,
            layout: LayoutStore::open(layout)?,
            choice: global.content_store.clone(),
            socket: global.socket(),
            namespace: global.namespace().to_owned(),
            containerd: OnceCell::new(),
        })
    }

    /// containerd, if it answers; if it is here and does not, a note says why. It must when its store was chosen.
    pub(crate) fn containerd(&self) -> Result<Option<&Containerd>> {
        if self.choice == Some(StoreChoice::Containerd) {
            return self.must_have_containerd().map(Some);
        }
        if let Some(known) = self.containerd.get() {
            return Ok(known.as_ref());
        }
        let found = if self.socket.exists() {
            let answer = connect(&self.socket, &self.namespace);
            answer
                .inspect_err(|error| say!("note: going on without containerd: {}", error::words(error)))
                .ok()
        } else {
            None
        };
        Ok(self.containerd.get_or_init(|| found).as_ref())
    }

    /// containerd, which must answer.
    pub(crate) fn must_have_containerd(&self) -> Result<&Containerd> {
        if self.containerd.get().is_none_or(Option::is_none) {
            let found = connect(&self.socket, &self.namespace)?;
            return self.containerd.get_or_init(|| Some(found)).as_ref().context("containerd did not answer");
        }
        self.containerd.get().and_then(Option::as_ref).context("containerd did not answer")
    }

    /// Where artifacts of an image are kept: in the store that was chosen, else where the image is if that is
    /// containerd, else in our own. What is written into containerd's stays at least as long as the result lives.
    pub(crate) fn store_for(&self, image: &ImageSource) -> Result<ContentStore> {
        match (&self.choice, image.in_containerd()) {
            (Some(StoreChoice::Containerd) | None, Some(containerd)) => {
                let it = containerd.clone();
                Ok(ContentStore::Containerd(containerd.wait(async move { it.leased().await })?))
            }
            (Some(StoreChoice::Containerd), None) => Err(Hinted::new(
                format!("image {:?} is not in containerd, which would collect artifacts of it", image.name()),
                "bring it there first, or keep the artifacts elsewhere with --content-store soci",
            )
            .into()),
            (Some(StoreChoice::Soci | StoreChoice::Layout(_)) | None, _) => Ok(self.own()),
        }
    }

    /// The stores in which a blob may be, nearest first.
    pub(crate) fn stores(&self) -> Result<Vec<ContentStore>> {
        let containerd = || Ok::<_, anyhow::Error>(self.containerd()?.cloned().map(ContentStore::Containerd));
        Ok(match self.choice {
            Some(StoreChoice::Containerd) => containerd()?.into_iter().collect(),
            Some(StoreChoice::Soci | StoreChoice::Layout(_)) => vec![self.own()],
            None => std::iter::once(self.own()).chain(containerd()?).collect(),
        })
    }

    /// Our own store, or the layout that was chosen.
    pub(crate) fn layout(&self) -> &LayoutStore {
        &self.layout
    }

    /// Removes an artifact with its record, and all that only it kept, from every store that has it. What something else names
    /// stays.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<()> {
        for store in self.stores()? {
            if store.size(digest)?.is_some() {
                store::remove(&store, &self.artifacts, digest)?;
            }
        }
        match self.artifacts.remove(digest) {
            Err(StoreError::NotFound(_)) => Ok(()),
            removed => Ok(removed?),
        }
    }

    fn own(&self) -> ContentStore {
        ContentStore::Layout(self.layout.clone())
    }

    /// The store that has a blob.
    pub(crate) fn store_of(&self, digest: &Digest) -> Result<Option<ContentStore>> {
        for store in self.stores()? {
            if store.size(digest)?.is_some() {
                return Ok(Some(store));
            }
        }
        Ok(None)
    }

    /// A whole blob, its digest checked.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Bytes> {
        match self.store_of(digest)? {
            Some(store) => Ok(store.read(digest)?),
            None => Err(StoreError::NotFound(*digest).into()),
        }
    }

    /// A blob to be sent: from its file where it is one, so that it is never in memory as a whole.
    pub(crate) fn content(&self, digest: &Digest) -> Result<Content> {
        match self.store_of(digest)? {
            Some(ContentStore::Layout(layout)) => {
                let path = layout.blob_path(digest);
                Content::file(&path).with_context(|| format!("cannot read {}", path.display()))
            }
            Some(store) => Ok(Content::Bytes(store.read(digest)?)),
            None => Err(StoreError::NotFound(*digest).into()),
        }
    }

    /// The records of one kind, sorted by digest.
    pub(crate) fn list(&self, kind: ArtifactKind) -> Result<Vec<Artifact>> {
        let mut records = self.artifacts.list()?;
        records.retain(|artifact| artifact.kind == kind);
        Ok(records)
    }

    /// The indexes, newest first; those of one moment by digest.
    pub(crate) fn indexes(&self) -> Result<Vec<Artifact>> {
        let mut records = self.list(ArtifactKind::SociIndex)?;
        records.sort_by_key(|artifact| std::cmp::Reverse(artifact.created_at));
        Ok(records)
    }

    /// The newest record of a kind that is about an image manifest, and whose blob is still there.
    pub(crate) fn newest(&self, kind: ArtifactKind, image: &Digest) -> Result<Option<Artifact>> {
        let mut of_image = self.list(kind)?;
        of_image.retain(|record| record.oci_digest == *image);
        of_image.sort_by_key(|record| std::cmp::Reverse((record.created_at, record.digest)));
        for record in of_image {
            if self.store_of(&record.digest)?.is_some() {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// The record of a digest.
    pub(crate) fn record(&self, digest: &Digest) -> Result<Artifact> {
        match self.artifacts.get(digest) {
            Err(StoreError::NotFound(_)) => bail!("couldn't retrieve artifact for {digest}, not found"),
            record => Ok(record?),
        }
    }
}

/// Connects to containerd.
pub(crate) fn connect(socket: &Path, namespace: &str) -> Result<Containerd> {
    Ok(Containerd::connect(socket, namespace)?)
}

/// Reads a digest from the command line; a missing one is no digest either.
pub(crate) fn digest(text: Option<&str>) -> Result<Digest> {
    text.and_then(|text| text.parse().ok()).context("invalid checksum digest format")
}
