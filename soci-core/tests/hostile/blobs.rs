//! Images in a layout: indexes that name each other, and blobs larger than what names them says.

use std::fs::File;

use soci_core::digest::Digest;
use soci_core::image::{Descriptor, ImageError, ImageIndex, ImageSource, Platform};
use soci_core::media_type::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use soci_core::store::LayoutStore;
use soci_core::units::ByteRange;
use tempfile::TempDir;

use crate::{ONE, measured, names};

struct Place {
    dir: TempDir,
    store: LayoutStore,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LayoutStore::open(dir.path()).unwrap();
        Self { dir, store }
    }

    fn put(&self, kind: &str, bytes: &[u8]) -> Descriptor {
        Descriptor::new(kind, self.store.put(bytes).unwrap(), bytes.len() as u64)
    }

    fn list(&self, entries: &[Descriptor]) -> Descriptor {
        self.put(OCI_INDEX, &ImageIndex::encode(entries))
    }

    fn resolve(&self, root: Descriptor) -> ImageError {
        self.store.add_manifest(root).unwrap();
        let source = ImageSource::layout(self.dir.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(source.resolve(&Platform::host())).unwrap_err()
    }
}

fn refused(limit: &str, make: impl FnOnce(&Place) -> Descriptor) {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let place = Place::new();
    let root = make(&place);
    names(limit, &measured(root.size as usize, || place.resolve(root)));
}

#[test]
fn lists_that_name_a_list_ten_thousand_times() {
    refused("image-entries", |place| {
        let empty = place.list(&[]);
        let many = place.list(&vec![empty; 10_000]);
        place.list(&vec![many; 10_000])
    });
}

#[test]
fn lists_in_lists_in_lists() {
    refused("image-depth", |place| (0..6).fold(place.list(&[]), |inner, _| place.list(&[inner])));
}

#[test]
fn two_thousand_lists() {
    refused("image-documents", |place| {
        let named = |number: usize| {
            let mut entry = Descriptor::new(OCI_MANIFEST, Digest::of(&number.to_le_bytes()), 2);
            entry.artifact_type = Some("other".to_owned());
            place.list(&[entry])
        };
        place.list(&(0..2000).map(named).collect::<Vec<_>>())
    });
}

#[test]
fn a_configuration_that_is_a_hundred_gigabytes() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let place = Place::new();
    let large = Digest::of(b"large");
    File::create(place.store.blob_path(&large)).unwrap().set_len(100 << 30).unwrap();
    let config = Descriptor::new(OCI_CONFIG, large, 2);
    let text = format!(
        "{{\"schemaVersion\":2,\"config\":{},\"layers\":[]}}",
        serde_json::to_string(&config).unwrap()
    );
    let manifest = place.put(OCI_MANIFEST, text.as_bytes());
    let error = measured(text.len(), || place.resolve(manifest));
    assert!(error.to_string().contains("larger than 2 bytes"), "{error}");
    // A part of it that is announced and not there takes no memory.
    let source = ImageSource::layout(place.dir.path()).unwrap();
    let announced = Descriptor::new(OCI_CONFIG, Digest::of(b"short"), 1 << 50);
    File::create(place.store.blob_path(&announced.digest)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let read = || runtime.block_on(source.read_range(&announced, ByteRange::new(0, 1 << 50)));
    assert!(measured(0, read).is_err());
}
