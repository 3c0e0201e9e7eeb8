//! Where a layer's bytes are fetched from: repositories that have it, the newest first.
//!
//! State: the list, owned by the layer's [`super::SpanManager`]. A repository that has the layer has the windows of its fine
//! index too, if the layer is served with one.

use std::sync::Arc;

use parking_lot::Mutex;
use soci_core::registry::{Giver, RangeBody, RangeFetcher};
use soci_core::units::ByteRange;
use tokio::time::Instant;

use super::{SpanError, chain};
use crate::telemetry::stats::Stats;

/// Sources that are tried at most.
const MAX_SOURCES: usize = 4;

/// The repositories of a layer.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<Vec<Source>>);

#[derive(Clone, Debug)]
struct Source {
    name: String,
    host: Arc<str>,
    layer: RangeFetcher,
    windows: Option<RangeFetcher>,
}

impl Sources {
    /// Adds a repository, `HOST/NAME`, to be tried first, since its credentials are the freshest. A `name` that is known is
    /// replaced.
    pub(super) fn add(&self, name: &str, layer: RangeFetcher, windows: Option<RangeFetcher>) {
        let mut sources = self.0.lock();
        sources.retain(|known| known.name != name);
        let host = name.split('/').next().unwrap_or(name).into();
        sources.insert(0, Source { name: name.to_owned(), host, layer, windows });
        sources.truncate(MAX_SOURCES);
    }

    /// The host that is asked first.
    pub(super) fn host(&self) -> Arc<str> {
        self.0.lock().first().map_or_else(|| "".into(), |source| Arc::clone(&source.host))
    }

    /// Starts a request for bytes of the layer, at the first source that gives them.
    pub(super) async fn fetch(&self, range: ByteRange, stats: &Stats) -> Result<RangeBody, SpanError> {
        self.first(range, stats, |source| Some(&source.layer)).await
    }

    /// Fetches bytes of the blob of windows. The caller has a limit for the length of `range`.
    pub(super) async fn windows(
        &self,
        range: ByteRange,
        stats: &Stats,
    ) -> Result<(Vec<u8>, Giver), SpanError> {
        let body = self.first(range, stats, |source| source.windows.as_ref()).await?;
        body.collect_from().await.map_err(SpanError::Fetch)
    }

    async fn first(
        &self,
        range: ByteRange,
        stats: &Stats,
        of: impl Fn(&Source) -> Option<&RangeFetcher>,
    ) -> Result<RangeBody, SpanError> {
        let sources = self.0.lock().clone();
        let mut failure = SpanError::NoSource;
        for source in &sources {
            let Some(fetcher) = of(source) else { continue };
            stats.fetch_requests.inc();
            let begun = Instant::now();
            match fetcher.fetch(range).await {
                Ok(body) => {
                    stats.range_requests.observe(begun.elapsed());
                    return Ok(body);
                }
                Err(error) => {
                    tracing::warn!(source = source.name, blob = %fetcher.digest(), %range, error = %chain(&error), "ranged request failed");
                    failure = SpanError::Fetch(error);
                }
            }
        }
        Err(failure)
    }
}
