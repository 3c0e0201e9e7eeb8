//! Removal from a layout: which manifests and records go, and with them every blob that only they kept.
//!
//! Holds no state. What must always hold: what an entry of `index.json` with a name keeps, or anything else that stays,
//! is not touched; `index.json` and the records are changed before the first blob goes, so that a removal which was cut
//! off leaves blobs that nobody names, and never a name without its blobs.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;

use super::{Artifact, ArtifactKind, Artifacts, ContentStore, LayoutStore, StoreError};
use crate::{
    digest::Digest,
    image::{Descriptor, ImageIndex, MAX_MANIFEST, Manifest},
    media_type,
};

/// Seconds for which what nothing names yet may be part of a build that goes on.
const GRACE: i64 = 24 * 3600;

/// What is to be removed by [`prune`]; without anything said, artifacts of layers that no index names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prune {
    /// Of each kind of artifact, for each image and platform (and for packs, purpose), so many of the newest stay.
    pub keep: Option<usize>,
    /// Only artifacts made before this go because of [`Prune::keep`]; without it, all of them.
    pub before: Option<Timestamp>,
    /// Also what has no record, and blobs that nothing names.
    pub unrecorded: bool,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default)]
pub struct Removed {
    /// Records.
    pub records: Vec<Artifact>,
    /// Blobs with their sizes in bytes.
    pub blobs: Vec<(Digest, u64)>,
}

impl Removed {
    /// Bytes of all blobs.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|(_, size)| size).sum()
    }
}

/// Removes a manifest of ours with its record, and all that only it kept: from a layout at once, from containerd when it
/// next collects. What something else names stays.
///
/// # Errors
/// When the store or the records cannot be changed.
pub fn remove(store: &ContentStore, artifacts: &Artifacts, digest: &Digest) -> Result<Removed, StoreError> {
    match store {
        ContentStore::Layout(layout) => remove_all(layout, artifacts, &[*digest]),
        ContentStore::Containerd(containerd) => {
            let (it, digest) = (containerd.clone(), *digest);
            containerd.wait(async move { it.let_go(&digest).await })?;
            Ok(Removed::default())
        }
    }
}

/// Removes indexes, fine indexes and packs with all that only they kept.
///
/// # Errors
/// When the store or a record cannot be read or changed.
pub fn remove_all(
    layout: &LayoutStore,
    artifacts: &Artifacts,
    digests: &[Digest],
) -> Result<Removed, StoreError> {
    let doomed: HashSet<Digest> = digests.iter().copied().collect();
    sweep(layout, artifacts, false, |_| Ok(Going { doomed, ..Going::default() }))
}

/// Removes `unused` manifests, which a node has fetched, and what they name, but for all that `used` ones name, that has a
/// name or a record, or that is part of those. Nothing else is looked at: it may be of a build that goes on.
///
/// # Errors
/// When the store or a record cannot be read or changed.
pub fn reclaim(
    layout: &LayoutStore,
    artifacts: &Artifacts,
    unused: impl IntoIterator<Item = Digest>,
    used: impl IntoIterator<Item = Digest>,
) -> Result<Removed, StoreError> {
    sweep(layout, artifacts, false, |view| {
        let mut kept = view.reached(used.into_iter());
        // Those of layers are named by no manifest as long as they are being made.
        kept.extend(view.records.iter().chain(&view.forgotten).map(|record| record.digest));
        Ok(Going { loose: view.reached(unused.into_iter()), kept, ..Going::default() })
    })
}

/// Removes what `what` says.
///
/// # Errors
/// When the store or a record cannot be read or changed.
pub fn prune(layout: &LayoutStore, artifacts: &Artifacts, what: Prune) -> Result<Removed, StoreError> {
    sweep(layout, artifacts, what.dry_run, |view| {
        let (mut doomed, grace) = (view.superseded(what), Duration::from_secs(GRACE.unsigned_abs()));
        doomed.extend(view.forgotten.iter().map(|record| record.digest));
        let mut loose = view.unnamed_of_layers();
        if what.unrecorded {
            doomed.extend(view.unrecorded());
            loose.extend(view.blobs_of_age(grace)?);
        }
        Ok(Going { doomed, loose, ..Going::default() })
    })
}

/// Lists a manifest in a layout. Of one whose place it takes, all goes that nothing else keeps.
///
/// # Errors
/// When the layout cannot be read or changed.
pub(crate) fn replace(layout: &LayoutStore, manifest: Descriptor) -> Result<(), StoreError> {
    let before = layout.index()?;
    layout.add_manifest(manifest)?;
    let _lock = layout.lock()?;
    let view = View { layout, records: Vec::new(), forgotten: Vec::new(), listed: layout.index()? };
    let kept = view.reached(view.listed.iter().map(|entry| entry.digest));
    let replaced = before.iter().map(|entry| entry.digest).filter(|digest| !kept.contains(digest));
    for digest in view.reached(replaced).difference(&kept) {
        layout.remove_blob(digest)?;
    }
    layout.sync()
}

/// What is to go.
#[derive(Default)]
struct Going {
    /// Manifests, with what only they keep.
    doomed: HashSet<Digest>,
    /// Blobs, if nothing keeps them.
    loose: HashSet<Digest>,
    /// What stays in any case, beside what has a name or a record.
    kept: HashSet<Digest>,
}

/// Removes what `choose` says.
fn sweep(
    layout: &LayoutStore,
    artifacts: &Artifacts,
    dry_run: bool,
    choose: impl FnOnce(&View<'_>) -> Result<Going, StoreError>,
) -> Result<Removed, StoreError> {
    let lock = layout.lock()?;
    let view = View {
        layout,
        records: artifacts.list()?,
        forgotten: artifacts.forgotten()?,
        listed: layout.index()?,
    };
    let Going { doomed, loose, kept: in_use } = choose(&view)?;
    let kept = view.reached(view.roots(|digest| !doomed.contains(digest)));
    let mut going = view.reached(doomed.iter().copied());
    going.extend(loose);
    going.retain(|digest| !kept.contains(digest) && !in_use.contains(digest));
    let mut removed = Removed::default();
    for digest in &going {
        if let Some(size) = view.size(digest) {
            removed.blobs.push((*digest, size));
        }
    }
    removed.blobs.sort_unstable();
    let goes = |record: &Artifact| going.contains(&record.digest) || doomed.contains(&record.digest);
    let records = view.records.iter().chain(&view.forgotten);
    removed.records = records.filter(|record| goes(record)).cloned().collect();
    if dry_run {
        return Ok(removed);
    }
    layout.unlist(&lock, |entry| doomed.contains(&entry.digest) && is_nameless(entry))?;
    let of: HashSet<Digest> = removed.records.iter().map(|record| record.digest).collect();
    for digest in of {
        match artifacts.remove(&digest) {
            Err(StoreError::NotFound(_)) => {}
            removed => removed?,
        }
    }
    for (digest, _) in &removed.blobs {
        layout.remove_blob(digest)?;
    }
    layout.sync()?;
    Ok(removed)
}

/// A layout and the records, as they are under the lock.
struct View<'a> {
    layout: &'a LayoutStore,
    records: Vec<Artifact>,
    /// Those that [`Artifacts::forget`] put away.
    forgotten: Vec<Artifact>,
    listed: Vec<Descriptor>,
}

impl View<'_> {
    /// What keeps other things: entries of `index.json`, and recorded manifests. Those with a name always do.
    fn roots<'b>(&'b self, stays: impl Fn(&Digest) -> bool + 'b) -> impl Iterator<Item = Digest> + 'b {
        let named = self.listed.iter().filter(|entry| !is_nameless(entry)).map(|entry| entry.digest);
        let others = self.listed.iter().map(|entry| entry.digest);
        let recorded =
            self.records.iter().filter(|record| is_manifest(record.kind)).map(|record| record.digest);
        named.chain(others.chain(recorded).filter(move |digest| stays(digest)))
    }

    /// These, and all that they name, directly or not.
    fn reached(&self, roots: impl Iterator<Item = Digest>) -> HashSet<Digest> {
        let mut left: Vec<Digest> = roots.collect();
        let mut reached = HashSet::new();
        while let Some(digest) = left.pop() {
            if reached.insert(digest) {
                left.extend(self.named_by(&digest));
            }
        }
        reached
    }

    /// The blobs that a manifest or image index names. A subject is not kept by what refers to it.
    fn named_by(&self, digest: &Digest) -> Vec<Digest> {
        let Some(manifest) = self.document(digest) else { return Vec::new() };
        manifest.into_iter().map(|named| named.digest).collect()
    }

    fn document(&self, digest: &Digest) -> Option<Vec<Descriptor>> {
        self.size(digest).filter(|size| *size <= MAX_MANIFEST as u64)?;
        let raw = self.layout.read(digest).ok().filter(|raw| raw.starts_with(b"{"))?;
        if let Ok(manifest) = Manifest::parse(raw.clone(), "") {
            return Some(std::iter::once(manifest.config).chain(manifest.layers).collect());
        }
        ImageIndex::parse(raw, "").ok().map(|index| index.manifests)
    }

    fn size(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.layout.blob_path(digest)).ok().map(|data| data.len())
    }

    /// Recorded manifests that are not among the newest of their group, and old enough.
    fn superseded(&self, what: Prune) -> HashSet<Digest> {
        let Some(keep) = what.keep.or(what.before.map(|_| 0)) else { return HashSet::new() };
        let mut groups: HashMap<_, Vec<&Artifact>> = HashMap::new();
        for record in
            self.records.iter().filter(|record| is_manifest(record.kind) && self.layout.has(&record.digest))
        {
            let image = record.image_ref.clone().unwrap_or_else(|| record.oci_digest.to_string());
            let key = (record.kind as u8, image, record.platform.clone(), self.purpose(record));
            groups.entry(key).or_default().push(record);
        }
        let mut superseded = HashSet::new();
        for group in groups.values_mut() {
            group.sort_by_key(|record| std::cmp::Reverse((record.created_at, record.digest)));
            let old = |record: &&&Artifact| what.before.is_none_or(|before| record.created_at < before);
            superseded.extend(group.iter().skip(keep).filter(old).map(|record| record.digest));
        }
        superseded
    }

    /// What a pack is for, as text; empty for all else.
    fn purpose(&self, record: &Artifact) -> String {
        if record.kind != ArtifactKind::Pack {
            return String::new();
        }
        let raw = self.layout.read(&record.digest).ok();
        let manifest = raw.and_then(|raw| Manifest::parse(raw, media_type::OCI_MANIFEST).ok());
        manifest.map_or_else(String::new, |manifest| format!("{:?}", manifest.annotations))
    }

    /// Recorded zTOCs and prefetch artifacts, but for those that a build may have made just now.
    fn unnamed_of_layers(&self) -> HashSet<Digest> {
        let now = Timestamp::now().as_second();
        let old = |record: &&Artifact| {
            !is_manifest(record.kind) && now.saturating_sub(record.created_at.as_second()) > GRACE
        };
        let here = self.records.iter().filter(old).filter(|record| self.layout.has(&record.digest));
        here.map(|record| record.digest).collect()
    }

    /// Nameless entries of `index.json` that are artifacts of ours and have no record.
    fn unrecorded(&self) -> HashSet<Digest> {
        let records = self.records.iter().chain(&self.forgotten);
        let recorded: HashSet<Digest> = records.map(|record| record.digest).collect();
        let ours = |entry: &&Descriptor| {
            is_nameless(entry)
                && !recorded.contains(&entry.digest)
                && entry.artifact_type.as_deref().is_some_and(media_type::is_artifact)
        };
        self.listed.iter().filter(ours).map(|entry| entry.digest).collect()
    }

    /// Blobs that have been here for so long.
    fn blobs_of_age(&self, age: Duration) -> Result<Vec<Digest>, StoreError> {
        let old = |digest: &Digest| {
            let written = std::fs::metadata(self.layout.blob_path(digest)).and_then(|data| data.modified());
            let here = written.ok().and_then(|written| written.elapsed().ok());
            here.is_some_and(|here| here >= age)
        };
        Ok(self.layout.blobs()?.into_iter().map(|(digest, _)| digest).filter(old).collect())
    }
}

fn is_manifest(kind: ArtifactKind) -> bool {
    matches!(kind, ArtifactKind::SociIndex | ArtifactKind::FineIndex | ArtifactKind::Pack)
}

fn is_nameless(entry: &Descriptor) -> bool {
    entry.annotation(media_type::REF_NAME).is_none()
        && entry.annotation(media_type::CONTAINERD_IMAGE_NAME).is_none()
}
