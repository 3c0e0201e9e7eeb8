//! Blocks of a pack are checked and inflated, the first of them before it is known where they go: a pack arrives earlier than
//! the tables of its layers, and a processor is free then.
//!
//! [`Opening`] owns the head and what inflates. What must always hold: bytes leave this file only when they have the digest that
//! the head pins.

use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use soci_core::pack::{BlockOpener, PackHead};
use soci_core::registry::{Pieces, RangeFetcher};
use tokio::task::JoinHandle;

use super::pack::PackFailure;

/// Bytes that are read before the layers are ready, about.
const READ_ON: usize = 8 << 20;
/// Blocks that are opened before.
const OPENED: usize = 16;

/// A head, and what opens its blocks.
#[derive(Debug)]
pub(super) struct Opening {
    head: PackHead,
    /// Those that open no block now.
    openers: Mutex<Vec<BlockOpener>>,
}

impl Opening {
    pub(super) fn new(head: PackHead) -> Self {
        Self { head, openers: Mutex::default() }
    }

    pub(super) const fn head(&self) -> &PackHead {
        &self.head
    }

    /// The plain bytes of a block. When they are not right, whoever sent them is not trusted any more. Blocking.
    pub(super) fn open(
        &self,
        block: usize,
        stored: &[u8],
        fetcher: &RangeFetcher,
    ) -> Result<Vec<u8>, PackFailure> {
        let idle = self.openers.lock().pop();
        let mut opener = idle.unwrap_or_default();
        let plain = opener.open(&self.head, block, stored).inspect_err(|_| {
            fetcher.distrust();
        })?;
        self.openers.lock().push(opener);
        Ok(plain)
    }
}

/// Waits for `layers`; reads on meanwhile, and opens the first blocks, one at a time. Gives those, too.
pub(super) async fn open_ahead<T>(
    mut layers: Pin<Box<dyn Future<Output = T> + Send + '_>>,
    opening: &Arc<Opening>,
    fetcher: &RangeFetcher,
    reading: &mut Pieces,
) -> Result<(T, Vec<Vec<u8>>), PackFailure> {
    let mut opened = Vec::new();
    let mut in_work: Option<JoinHandle<Result<Vec<u8>, PackFailure>>> = None;
    let mut more = true;
    let layers = loop {
        if in_work.is_none()
            && opened.len() < OPENED
            && let Some(stored) = take_waiting(opening.head(), opened.len(), reading).await?
        {
            let (this, fetcher, block) = (Arc::clone(opening), fetcher.clone(), opened.len());
            in_work = Some(tokio::task::spawn_blocking(move || this.open(block, &stored, &fetcher)));
        }
        tokio::select! {
            biased;
            layers = &mut layers => break layers,
            plain = async { in_work.as_mut().expect("asked below").await }, if in_work.is_some() => {
                opened.push(plain.map_err(|_| PackFailure::Over)??);
                in_work = None;
            }
            read = reading.read_on(), if more => more = read? > 0 && reading.waiting() < READ_ON,
        }
    };
    if let Some(last) = in_work {
        opened.push(last.await.map_err(|_| PackFailure::Over)??);
    }
    Ok((layers, opened))
}

/// The stored bytes of a block, the next of the answer, if all of them have arrived.
async fn take_waiting(
    head: &PackHead,
    block: usize,
    reading: &mut Pieces,
) -> Result<Option<Vec<u8>>, PackFailure> {
    let length = head.blocks().get(block).and_then(|block| usize::try_from(block.stored.len()).ok());
    let Some(length) = length.filter(|&length| length <= reading.waiting()) else { return Ok(None) };
    let mut stored = Vec::with_capacity(length);
    reading.take(length, &mut stored, |_| {}).await?;
    Ok(Some(stored))
}
