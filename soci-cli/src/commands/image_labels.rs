//! The labels by which an image in containerd keeps what was made for it. Holds no state.

use anyhow::Result;
use soci_core::{
    digest::Digest,
    image::ImageSource,
    pack::Purpose,
    store::{ContentStore, SOCI_INDEX_LABEL},
};

/// Lets the image in containerd keep its indexes of one kind, which keep the rest: each under a label of its manifest, so
/// that a later call for another platform takes nothing away. The last one has `label` itself, too, which is upstream's for
/// the SOCI index.
pub(super) fn keep_indexes(
    source: &ImageSource,
    store: &ContentStore,
    label: &str,
    indexes: &[(Digest, Digest)],
) -> Result<()> {
    let ContentStore::Containerd(containerd) = store else { return Ok(()) };
    let last = indexes.last().map(|(_, index)| (label.to_owned(), index));
    let each = indexes.iter().map(|(manifest, index)| (format!("{label}.{}", short(manifest)), index));
    for (key, index) in each.chain(last) {
        let (it, name, digest) = (containerd.clone(), source.name().to_owned(), index.to_string());
        containerd.wait(async move { it.label_image(&name, &key, &digest).await })?;
    }
    Ok(())
}

/// Lets an image in containerd keep its packs for one purpose, which keep their blobs.
pub(super) fn keep_packs(
    store: &ContentStore,
    image: &str,
    purpose: &Purpose,
    packs: &[(Digest, Digest)],
) -> Result<()> {
    let ContentStore::Containerd(containerd) = store else { return Ok(()) };
    // Any names, in the letters that a label's key may have.
    let mut named = purpose.workload.clone().unwrap_or_default();
    for (name, value) in &purpose.selectors {
        named.extend(["\n", name, "=", value]);
    }
    let named = Digest::of(named.as_bytes()).hex();
    for (manifest, pack) in packs {
        let key = format!("{SOCI_INDEX_LABEL}.pack-{}.{}", &named[..12], short(manifest));
        let (it, name, digest) = (containerd.clone(), image.to_owned(), pack.to_string());
        containerd.wait(async move { it.label_image(&name, &key, &digest).await })?;
    }
    Ok(())
}

/// Enough of a manifest's digest to tell it from the others of its image.
fn short(manifest: &Digest) -> String {
    manifest.hex()[..16].to_owned()
}
