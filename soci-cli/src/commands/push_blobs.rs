//! Blobs to a registry, several at a time. Holds no state.

use std::{sync::Arc, time::Duration};

use soci_core::{
    digest::Digest,
    registry::{Content, RegistryError, Repository},
};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::output::progress::{Progress, short};

/// How often a bar of a push moves.
const TICK: Duration = Duration::from_millis(200);

/// Sends the blobs that the registry does not have.
pub(super) async fn push_blobs(
    repository: &Repository,
    blobs: Vec<(Digest, Content)>,
    uploads: usize,
    say: &Progress,
) -> Result<(), RegistryError> {
    let slots = Arc::new(Semaphore::new(uploads));
    let bar = say.bytes("push", blobs.iter().map(|(_, content)| content.size()).sum());
    let traffic = repository.traffic();
    let before = traffic.bytes_sent();
    let mut skipped = 0;
    let mut tasks = JoinSet::new();
    for (digest, content) in blobs {
        let (repository, slots) = (repository.clone(), Arc::clone(&slots));
        let (say, bar, size) = (say.clone(), bar.clone(), content.size());
        tasks.spawn(async move {
            let _slot = slots.acquire_owned().await;
            if repository.blob_exists(&digest).await? {
                say.line(&format!("skipped artifact with digest: {digest}"));
                return Ok(size);
            }
            say.line(&format!("pushing artifact with digest: {digest}"));
            bar.set_message(format!("push {}", short(&digest)));
            repository.push_blob(&digest, content).await?;
            say.line(&format!("successfully pushed artifact with digest: {digest}"));
            Ok(0)
        });
    }
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            outcome = tasks.join_next() => match outcome {
                None => break,
                Some(Ok(pushed)) => skipped += pushed?,
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            },
            _ = tick.tick() => bar.set_position(skipped + traffic.bytes_sent() - before),
        }
    }
    bar.finish_and_clear();
    Ok(())
}
