//! The fine indexes of an image: blobs of windows, the bundle of tables, and the companion that names them.
//!
//! Holds no state. What must always hold: the companion is the same for the same layers and settings.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::{Companion, CompanionKind};
use crate::{
    digest::Digest,
    image::{Descriptor, Image},
    media_type,
    store::{ContentStore, StoreError},
    ztoc::{BuiltFine, Bundle, MAX_BUNDLE},
};

/// More than a bundle has of its own for each table, and in all.
const RECORD: u64 = 64;

/// The fine index of one layer, its windows stored.
#[derive(Clone, Debug)]
pub(super) struct FineLayer {
    table: Bytes,
    /// `None` when no span needs one.
    windows: Option<Descriptor>,
}

impl FineLayer {
    /// Stores the windows. The table is kept in memory for the bundle.
    pub(super) fn keep(built: BuiltFine, layer: Digest, store: &ContentStore) -> Result<Self, StoreError> {
        let windows = if built.windows.is_empty() {
            None
        } else {
            let (digest, size) = (store.put(&built.windows)?, built.windows.len() as u64);
            let mut windows = Descriptor::new(media_type::FINE_WINDOWS, digest, size);
            windows.annotations.insert(media_type::LAYER_DIGEST.to_owned(), layer.to_string());
            Some(windows)
        };
        Ok(Self { table: built.table.into(), windows })
    }
}

/// Takes the largest tables away until a bundle of the rest is none that readers refuse; gives the layers' numbers.
pub(super) fn fit(fine: &mut HashMap<usize, FineLayer>) -> Vec<usize> {
    let mut left_out = Vec::new();
    let mut sum: u64 = fine.values().map(|fine| fine.table.len() as u64 + RECORD).sum();
    while sum > MAX_BUNDLE - RECORD
        && let Some((&largest, it)) = fine.iter().max_by_key(|(number, fine)| (fine.table.len(), **number))
    {
        sum -= it.table.len() as u64 + RECORD;
        fine.remove(&largest);
        left_out.push(largest);
    }
    left_out
}

/// Stores the bundle of an image's fine tables and gives the companion. It is not stored: its subject may be another one
/// in the end. `distinct` are the numbers of the image's layers, without those that occurred before.
pub(super) fn companion(
    image: &Image,
    distinct: &[usize],
    fine: &HashMap<usize, FineLayer>,
    store: &ContentStore,
) -> Result<Companion, StoreError> {
    let (tables, windows): (Vec<_>, Vec<_>) = distinct
        .iter()
        .filter_map(|i| Some((image.layers()[*i].digest, fine.get(i)?)))
        .map(|(layer, fine)| ((layer, fine.table.clone()), fine.windows.clone()))
        .unzip();
    let bundle = Bundle::encode(&tables);
    let tables = Descriptor::new(media_type::FINE_TABLES, store.put(&bundle)?, bundle.len() as u64);
    Ok(Companion {
        kind: CompanionKind::FineIndex,
        subject: image.manifest.descriptor(),
        layers: std::iter::once(tables).chain(windows.into_iter().flatten()).collect(),
        annotations: BTreeMap::new(),
    })
}
