//! Something of an image that is looked for once by all who need it.
//!
//! A [`Found`] owns the result. A failure is that of all who ask soon after: an image has many layers, and a registry that
//! fails takes its time for each answer. Later it is looked for again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::layer::LayerError;

/// How long a failure counts.
const COUNTS: Duration = Duration::from_secs(10);

/// A result that all who ask share.
#[derive(Debug)]
pub(crate) struct Found<T> {
    cell: OnceCell<T>,
    failed: Mutex<Option<(Instant, Arc<LayerError>)>>,
}

impl<T> Found<T> {
    /// Nothing was looked for yet.
    pub(crate) fn new() -> Self {
        Self { cell: OnceCell::new(), failed: Mutex::new(None) }
    }

    /// What was found, if it was.
    pub(crate) fn get(&self) -> Option<&T> {
        self.cell.get()
    }

    /// What was found before, or what `find` finds now.
    pub(crate) fn or_find<'a>(
        &'a self,
        find: impl Future<Output = Result<T, LayerError>> + Send + 'a,
    ) -> BoxFuture<'a, Result<&'a T, LayerError>>
    where
        T: Send + Sync,
    {
        let find: BoxFuture<'a, _> = Box::pin(find);
        let found = self.cell.get_or_try_init(|| async {
            let lately = self.failed.lock().clone().filter(|(at, _)| at.elapsed() < COUNTS);
            if let Some((_, error)) = lately {
                return Err(error);
            }
            find.await.map_err(|error| {
                let error = Arc::new(error);
                *self.failed.lock() = Some((Instant::now(), Arc::clone(&error)));
                error
            })
        });
        Box::pin(async move { found.await.map_err(LayerError::Shared) })
    }
}
