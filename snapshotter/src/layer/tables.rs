//! How much memory the tables of one image may take: its zTOCs, fine tables and prefetch artifacts, which come from a registry.
//!
//! [`Tables`] owns the two counts. What must always hold: no table is opened before what it may take at most is free, so what
//! is opened at the same time has a bound; and what all that were opened keep has one, too. Opening is done on threads for
//! blocking work, keeps its share until it ends, whether somebody still waits for it or not, and ends in a time that its length
//! bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use soci_core::budget::{MEMORY_FREE, MEMORY_RATIO, OverLimit};
use soci_core::ztoc::{Ztoc, ZtocError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::LayerError;

/// Memory for the tables of an image that are opened at the same time, MiB: one for which this is too little is opened alone.
const AT_ONCE: u32 = 256;
/// Memory for the prefetch artifacts of an image that are fetched and read at the same time, MiB, and what one takes for each of
/// its bytes: a range of three letters has 56 bytes, and its spans as many again.
const ARTIFACTS_AT_ONCE: u32 = 64;
const ARTIFACT_RATIO: u64 = 16;
/// Limit: memory that the tables of an image keep, bytes. The zTOCs of 100 GB of layers have 800 MB.
const KEPT: u64 = 2 << 30;

/// The memory of one image's tables.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    at_once: Arc<Semaphore>,
    artifacts: Arc<Semaphore>,
    kept: Arc<AtomicU64>,
}

impl Tables {
    pub(crate) fn new() -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(AT_ONCE as usize)),
            artifacts: Arc::new(Semaphore::new(ARTIFACTS_AT_ONCE as usize)),
            kept: Arc::default(),
        }
    }

    /// Room for an artifact of `length` bytes, from before it is fetched until its spans are queued.
    pub(crate) async fn artifact(&self, length: u64) -> Result<OwnedSemaphorePermit, LayerError> {
        let units = u32::try_from((length.saturating_mul(ARTIFACT_RATIO) >> 20) + 1).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.artifacts).acquire_many_owned(units.min(ARTIFACTS_AT_ONCE)).await;
        room.map_err(|_| LayerError::CutOff)
    }

    /// Opens a table of `length` bytes on a thread for blocking work.
    pub(crate) async fn open(
        &self,
        length: u64,
        open: impl FnOnce() -> Option<Result<Ztoc, ZtocError>> + Send + 'static,
    ) -> Result<Option<Result<Ztoc, ZtocError>>, LayerError> {
        let most = length.saturating_mul(MEMORY_RATIO).saturating_add(MEMORY_FREE) >> 20;
        let share = u32::try_from(most).unwrap_or(AT_ONCE).min(AT_ONCE);
        let share = Arc::clone(&self.at_once).acquire_many_owned(share).await;
        let share = share.map_err(|_| LayerError::CutOff)?;
        let kept = Arc::clone(&self.kept);
        let opened = tokio::task::spawn_blocking(move || {
            let opened =
                open()?.and_then(|table| keep(&kept, &table).map(|()| table).map_err(ZtocError::from));
            drop(share);
            Some(opened)
        });
        opened.await.map_err(|_| LayerError::CutOff)
    }
}

fn keep(kept: &AtomicU64, table: &Ztoc) -> Result<(), OverLimit> {
    let before = kept.fetch_add(table.memory(), Ordering::Relaxed);
    if before.saturating_add(table.memory()) <= KEPT {
        return Ok(());
    }
    kept.fetch_sub(table.memory(), Ordering::Relaxed);
    Err(OverLimit { limit: "image-tables", most: KEPT })
}

/// Longest document that is parsed where it was received, bytes: what takes a millisecond or so.
const SHORT: usize = 256 << 10;

/// Parses `length` bytes; long ones on a thread for blocking work, so that no other task waits for it.
pub(crate) async fn parsed<T: Send + 'static>(
    length: usize,
    parse: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LayerError> {
    if length <= SHORT {
        return Ok(parse());
    }
    tokio::task::spawn_blocking(parse).await.map_err(|_| LayerError::CutOff)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use soci_core::ztoc::{BuildOptions, build_tar};

    use super::*;

    fn table() -> Ztoc {
        let built = build_tar(&[0; 1024][..], &BuildOptions::default()).unwrap();
        Ztoc::open(Bytes::from(built.ztoc)).unwrap()
    }

    #[tokio::test]
    async fn what_all_tables_keep_has_a_limit() {
        let tables = Tables::new();
        let open = || tables.open(1000, || Some(Ok(table())));
        open().await.unwrap().unwrap().unwrap();
        assert_eq!(tables.kept.load(Ordering::Relaxed), table().memory());
        tables.kept.store(KEPT, Ordering::Relaxed);
        let refused = open().await.unwrap().unwrap();
        assert!(matches!(refused, Err(ZtocError::OverLimit(over)) if over.limit == "image-tables"));
        assert_eq!(tables.kept.load(Ordering::Relaxed), KEPT);
        assert!(tables.open(1000, || None).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn large_artifacts_wait_for_each_other_and_small_ones_do_not() {
        let tables = Tables::new();
        let mut small = Vec::new();
        for _ in 0..ARTIFACTS_AT_ONCE {
            small.push(tables.artifact(10_000).await.unwrap());
        }
        drop(small);
        let large = tables.artifact(3 << 20).await.unwrap();
        assert!(tables.artifacts.available_permits() < 49);
        drop(large);
        drop(tables.artifact(u64::MAX).await.unwrap());
    }

    #[tokio::test]
    async fn what_would_take_all_memory_is_opened_alone() {
        let tables = Tables::new();
        let (began, begun) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let large = tables.clone();
        let first = tokio::spawn(async move {
            let open = move || {
                began.send(()).unwrap();
                ended.recv().unwrap();
                None
            };
            large.open(1 << 30, open).await.unwrap()
        });
        tokio::task::spawn_blocking(move || begun.recv().unwrap()).await.unwrap();
        assert_eq!(tables.at_once.available_permits(), 0);
        // Nobody waits any more, but the memory is still taken.
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(tables.at_once.available_permits(), 0);
        end.send(()).unwrap();
        assert!(tables.open(1 << 30, || None).await.unwrap().is_none());
    }
}
