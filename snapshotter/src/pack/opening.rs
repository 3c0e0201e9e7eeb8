//! Blocks of a pack are checked and inflated, the first of them before it is known where they go: a pack arrives earlier than
//! the tables of its layers, and a processor is free then.
//!
//! [`Opening`] owns the head and what inflates. What must always hold: bytes leave this file only when they have the digest that
//! the head pins.

use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use soci_core::pack::{BlockOpener, PackHead};
use soci_core::registry::{Giver, Pieces};
use tokio::task::JoinHandle;

use super::failure::PackFailure;

/// Bytes that are read before the layers are ready, about, and at most.
const READ_ON: u64 = 8 << 20;
/// Blocks that are opened before.
const OPENED: usize = 16;

/// A head, and what opens its blocks.
#[derive(Debug)]
pub(crate) struct Opening {
    head: PackHead,
    /// Those that open no block now.
    openers: Mutex<Vec<BlockOpener>>,
}

impl Opening {
    pub(crate) fn new(head: PackHead) -> Self {
        Self { head, openers: Mutex::default() }
    }

    pub(crate) const fn head(&self) -> &PackHead {
        &self.head
    }

    /// The plain bytes of a block. When they are not right, whoever sent them is not trusted any more. Blocking.
    pub(crate) fn open(&self, block: usize, stored: &[u8], giver: &Giver) -> Result<Vec<u8>, PackFailure> {
        let idle = self.openers.lock().pop();
        let mut opener = idle.unwrap_or_default();
        let plain = opener.open(&self.head, block, stored).inspect_err(|_| {
            giver.distrust();
        })?;
        self.openers.lock().push(opener);
        Ok(plain)
    }
}

/// What was done before the layers were ready.
#[derive(Debug)]
pub(crate) struct Ahead<T> {
    /// The layers.
    pub(crate) layers: T,
    /// The plain bytes of the first blocks.
    pub(crate) opened: Vec<Vec<u8>>,
    /// Why there will be no more.
    pub(crate) failure: Option<PackFailure>,
}

/// Waits for `layers`; reads on meanwhile, no more than `at_once` bytes, and opens the first blocks, one at a time.
pub(crate) async fn open_ahead<T>(
    mut layers: Pin<Box<dyn Future<Output = T> + Send + '_>>,
    opening: &Arc<Opening>,
    reading: &mut Pieces,
    at_once: u64,
) -> Ahead<T> {
    let mut rest = at_once.min(READ_ON);
    let (mut opened, mut failure) = (Vec::new(), None);
    let mut in_work: Option<JoinHandle<Result<Vec<u8>, PackFailure>>> = None;
    let mut more = rest > 0;
    let layers = loop {
        if in_work.is_none()
            && failure.is_none()
            && opened.len() < OPENED
            && let Some(stored) = take_waiting(opening.head(), opened.len(), reading).await
        {
            let (this, giver, block) = (Arc::clone(opening), reading.giver(), opened.len());
            in_work = Some(tokio::task::spawn_blocking(move || this.open(block, &stored, &giver)));
        }
        tokio::select! {
            biased;
            layers = &mut layers => break layers,
            plain = outcome(&mut in_work), if in_work.is_some() => match plain {
                Ok(plain) => opened.push(plain),
                Err(error) => failure = Some(error),
            },
            read = reading.read_on(), if more => {
                let arrived = read.as_ref().map_or(0, |arrived| *arrived as u64);
                rest = rest.saturating_sub(arrived);
                more = arrived > 0 && rest > 0;
                failure = failure.or(read.err().map(PackFailure::from));
            }
        }
    };
    if in_work.is_some() {
        match outcome(&mut in_work).await {
            Ok(plain) => opened.push(plain),
            Err(error) => failure = Some(error),
        }
    }
    Ahead { layers, opened, failure }
}

/// How the work ends; after that there is none. A call that is given up leaves it.
async fn outcome(
    work: &mut Option<JoinHandle<Result<Vec<u8>, PackFailure>>>,
) -> Result<Vec<u8>, PackFailure> {
    let Some(running) = work else { return Err(PackFailure::Over) };
    let done = running.await;
    *work = None;
    done.map_err(|_| PackFailure::Over)?
}

/// The stored bytes of a block, the next of the answer, if all of them have arrived.
async fn take_waiting(head: &PackHead, block: usize, reading: &mut Pieces) -> Option<Vec<u8>> {
    let length = usize::try_from(head.blocks().get(block)?.stored.len()).ok()?;
    if length > reading.waiting() {
        return None;
    }
    let mut stored = Vec::with_capacity(length);
    reading.take(length, &mut stored, |_| {}).await.ok()?.then_some(stored)
}
