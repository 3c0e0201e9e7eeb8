//! Where a span's detached window comes from: the plain bytes before it when they are checked, else its place in the blob of
//! windows.
//!
//! Owns nothing. What must always hold: a window is made of bytes that were checked, against the digest of the span before or
//! against the digest in the table; never of bytes that only a pack has brought.

use std::sync::Arc;

use soci_core::units::{ByteRange, SpanId};
use soci_core::ztoc::{Window, WindowError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::doors;
use crate::span::{SpanError, SpanManager};

/// What a span of a run waits for before it can be inflated.
#[derive(Debug)]
pub(super) enum Before {
    /// The window that was asked for together with the bytes.
    Asked(oneshot::Receiver<Result<Option<Window>, SpanError>>),
    /// The span before it in the same run.
    Span(oneshot::Receiver<()>),
}

impl Before {
    /// Starts to fetch the window of a run's first span; `None` when it needs none.
    pub(super) fn of_first(manager: &Arc<SpanManager>, span: SpanId, runtime: &Handle) -> Option<Self> {
        manager.ztoc().windows()?.of(span)?;
        let manager = Arc::clone(manager);
        let (told, asked) = oneshot::channel();
        doors::spawn(runtime, async move { _ = told.send(find(&manager, span).await) });
        Some(Self::Asked(asked))
    }
}

/// The window of a span; `None` when it needs no detached one.
pub(super) async fn window(
    manager: &Arc<SpanManager>,
    span: SpanId,
    before: Option<Before>,
) -> Result<Option<Window>, SpanError> {
    if manager.ztoc().windows().is_none_or(|windows| windows.of(span).is_none()) {
        return Ok(None);
    }
    match before {
        Some(Before::Asked(asked)) => return asked.await.unwrap_or(Err(SpanError::Abandoned)),
        // An error says that it is over, too.
        Some(Before::Span(over)) => drop(over.await),
        None => {}
    }
    find(manager, span).await
}

async fn find(manager: &Arc<SpanManager>, span: SpanId) -> Result<Option<Window>, SpanError> {
    let Some(place) = manager.ztoc().windows().and_then(|windows| windows.of(span)) else { return Ok(None) };
    let start = manager.ztoc().spans().uncompressed_range(span).start;
    let before = ByteRange::new(start.saturating_sub(Window::SIZE as u64), start);
    if let Some(plain) = manager.read_checked(before) {
        return Ok(Some(Window::from_plain(&plain)));
    }
    let mut retries = manager.options().verification_retries;
    loop {
        let (bytes, giver) = manager.fetch_window(place.range).await?;
        match Window::open(&place, &bytes) {
            Ok(window) => return Ok(Some(window)),
            // As with a span's own bytes: a mirror is asked once, and nobody else more often than configured.
            Err(WindowError::Digest { .. }) if giver.distrust() => {}
            Err(WindowError::Digest { .. }) if retries > 0 => retries -= 1,
            Err(source) => return Err(SpanError::Window { span, source }),
        }
    }
}
