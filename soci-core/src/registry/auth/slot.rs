//! The header for one repository and action: obtained by one caller, shared by all who wait for it.
//!
//! A [`Slot`] owns the newest [`Grant`]. Invariants: no lock is held while a header is being obtained; when that fails, those
//! who waited get the same failure, and nobody waits for two attempts; a caller that gives up leaves its place to the next.

use std::time::{Duration, Instant};

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Credential;
use crate::registry::error::RegistryError;

/// An Authorization header and how long it lasts.
#[derive(Debug, Clone)]
pub(super) struct Grant {
    pub(super) header: HeaderValue,
    /// What the token server was asked for; empty for a header that did not come from one.
    pub(super) scope: String,
    /// What it was made from.
    pub(super) credential: Credential,
    pub(super) since: Instant,
    /// When another one is to be obtained.
    pub(super) renew: Instant,
    pub(super) expires: Instant,
}

type Outcome = Option<Result<Grant, RegistryError>>;

/// The place of one header.
#[derive(Debug, Default)]
pub(super) struct Slot(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    grant: Option<Grant>,
    running: Option<watch::Receiver<Outcome>>,
}

enum Turn {
    Lead(watch::Sender<Outcome>),
    Follow(watch::Receiver<Outcome>),
}

impl Slot {
    /// The newest grant, whether it can still be used or not.
    pub(super) fn newest(&self) -> Option<Grant> {
        self.0.lock().grant.clone()
    }

    /// Puts the renewal of the newest grant off, and gives the grant, if it is still good.
    pub(super) fn postpone(&self, by: Duration) -> Option<Grant> {
        let mut state = self.0.lock();
        let now = Instant::now();
        let grant = state.grant.as_mut().filter(|grant| grant.expires > now)?;
        grant.renew = grant.expires.min(now + by);
        Some(grant.clone())
    }

    /// The newest grant if it is `usable`, else what `obtain` gives: this caller's or that of one who is at it already.
    pub(super) async fn get(
        &self,
        usable: impl Fn(&Grant) -> bool,
        obtain: impl Future<Output = Result<Grant, RegistryError>>,
    ) -> Result<Grant, RegistryError> {
        let mut obtain = std::pin::pin!(obtain);
        loop {
            match self.turn(&usable) {
                Ok(grant) => return Ok(grant),
                Err(Turn::Lead(told)) => {
                    let outcome = obtain.as_mut().await;
                    let mut state = self.0.lock();
                    state.running = None;
                    if let Ok(grant) = &outcome {
                        state.grant = Some(grant.clone());
                    }
                    drop(state);
                    told.send_replace(Some(outcome.clone()));
                    return outcome;
                }
                Err(Turn::Follow(mut running)) => {
                    // An error means that the one who led was cancelled.
                    let outcome =
                        running.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
                    match outcome {
                        Some(Ok(grant)) if usable(&grant) => return Ok(grant),
                        Some(Err(error)) => return Err(error),
                        Some(Ok(_)) | None => {}
                    }
                }
            }
        }
    }

    fn turn(&self, usable: impl Fn(&Grant) -> bool) -> Result<Grant, Turn> {
        let mut state = self.0.lock();
        if let Some(grant) = state.grant.as_ref().filter(|grant| usable(grant)) {
            return Ok(grant.clone());
        }
        if let Some(running) = state.running.as_ref().filter(|running| running.has_changed().is_ok()) {
            return Err(Turn::Follow(running.clone()));
        }
        let (told, running) = watch::channel(None);
        state.running = Some(running);
        Err(Turn::Lead(told))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use super::*;

    fn grant(text: &'static str) -> Grant {
        let now = Instant::now();
        let (header, scope) = (HeaderValue::from_static(text), String::new());
        let expires = now + Duration::from_hours(1);
        Grant { header, scope, credential: Credential::Anonymous, since: now, renew: expires, expires }
    }

    fn failure() -> RegistryError {
        RegistryError::Unauthorized { url: "u".to_owned(), reason: String::new() }
    }

    #[tokio::test]
    async fn all_who_wait_share_one_outcome_good_or_bad() {
        for good in [true, false] {
            let slot = Arc::new(Slot::default());
            let asked = Arc::new(AtomicU32::new(0));
            let go = Arc::new(tokio::sync::Semaphore::new(0));
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let (slot, asked, go) = (Arc::clone(&slot), Arc::clone(&asked), Arc::clone(&go));
                    tokio::spawn(async move {
                        let obtain = async {
                            asked.fetch_add(1, SeqCst);
                            let _ = go.acquire().await;
                            if good { Ok(grant("a")) } else { Err(failure()) }
                        };
                        slot.get(|_| true, obtain).await.is_ok()
                    })
                })
                .collect();
            // On a runtime of one thread all callers are waiting when this task runs again.
            tokio::task::yield_now().await;
            go.add_permits(1);
            for caller in callers {
                assert_eq!(caller.await.unwrap(), good);
            }
            assert_eq!(asked.load(SeqCst), 1);
        }
    }

    #[tokio::test]
    async fn a_grant_that_cannot_be_renewed_is_used_until_it_expires() {
        let slot = Slot::default();
        assert!(slot.postpone(Duration::from_secs(10)).is_none());
        let mut due = grant("a");
        due.renew = Instant::now();
        slot.get(|_| true, async { Ok(due) }).await.unwrap();
        let renewed = slot.get(|grant| grant.renew > Instant::now(), async { Err(failure()) }).await;
        assert!(renewed.is_err());
        assert_eq!(slot.postpone(Duration::from_secs(10)).unwrap().header, "a");
        let kept = slot.get(|grant| grant.renew > Instant::now(), async { Err(failure()) }).await;
        assert_eq!(kept.unwrap().header, "a", "nobody asks again at once");
    }

    #[tokio::test]
    async fn who_gives_up_leaves_the_place_to_the_next() {
        let slot = Arc::new(Slot::default());
        let first = {
            let slot = Arc::clone(&slot);
            tokio::spawn(async move { slot.get(|_| true, std::future::pending()).await.is_ok() })
        };
        tokio::task::yield_now().await;
        let second = {
            let slot = Arc::clone(&slot);
            tokio::spawn(async move { slot.get(|_| true, async { Ok(grant("b")) }).await.unwrap().header })
        };
        tokio::task::yield_now().await;
        first.abort();
        assert_eq!(second.await.unwrap(), "b");
    }
}
