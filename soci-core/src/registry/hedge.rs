//! Second requests for what a server, or a connection, seems to have forgotten: the first one goes on meanwhile, and the first
//! that brings something wins.
//!
//! [`Hedges`] owns when one is made and how many are out at each host. What must always hold: a range has at most [`RIVALS`]
//! beside its first request, and a host at most [`MOST_AT_HOST`] in all, so that one that does not answer is not buried.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// Requests beside the first one, for one range.
const RIVALS: usize = 3;
/// Requests beside first ones that may be out at a host.
const MOST_AT_HOST: usize = 24;
/// The second rival comes sooner than the first, and so on, but not sooner than this.
const SOONEST: Duration = Duration::from_millis(250);

/// When a request is made a second time, and how many of those are out.
#[derive(Debug)]
pub(super) struct Hedges {
    after: Option<Duration>,
    out: Mutex<HashMap<Arc<str>, usize>>,
}

/// The right to have one more request out at a host.
#[derive(Debug)]
pub(super) struct Permit {
    hedges: Arc<Hedges>,
    host: Arc<str>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut out = self.hedges.out.lock();
        if let Some(count) = out.get_mut(&self.host) {
            *count -= 1;
            if *count == 0 {
                out.remove(&self.host);
            }
        }
    }
}

impl Hedges {
    /// After so long without an answer. `None`: never.
    pub(super) fn new(after: Option<Duration>) -> Arc<Self> {
        Arc::new(Self { after, out: Mutex::default() })
    }

    /// After how long a request is made again.
    pub(super) fn after(&self) -> Option<Duration> {
        self.after
    }

    /// The right to one more request, if the host has not too many.
    pub(super) fn permit(self: &Arc<Self>, host: &str) -> Option<Permit> {
        let host: Arc<str> = host.into();
        let mut out = self.out.lock();
        let count = out.entry(Arc::clone(&host)).or_default();
        if *count >= MOST_AT_HOST {
            return None;
        }
        *count += 1;
        drop(out);
        Some(Permit { hedges: Arc::clone(self), host })
    }
}

type Rival<T, E> = BoxFuture<'static, Result<T, E>>;

/// The next of the rivals that ends, which is then none any more.
fn poll_rivals<T, E>(rivals: &mut VecDeque<Rival<T, E>>, context: &mut Context<'_>) -> Poll<Result<T, E>> {
    for at in 0..rivals.len() {
        if let Some(Poll::Ready(outcome)) = rivals.get_mut(at).map(|rival| rival.as_mut().poll(context)) {
            drop(rivals.remove(at));
            return Poll::Ready(outcome);
        }
    }
    Poll::Pending
}

/// What the first of several attempts gives that succeeds: `first`, or one that `another` begins each time that nothing has
/// come for a while, if it may; the oldest of those makes room for it. When all fail, the error of `first`.
pub(super) async fn race<T, E: Clone>(
    first: impl Future<Output = Result<T, E>>,
    after: Option<Duration>,
    mut another: impl FnMut() -> Option<Rival<T, E>>,
) -> Result<T, E> {
    let Some(after) = after else { return first.await };
    let (mut first, mut failure) = (pin!(first), None);
    let mut rivals = VecDeque::new();
    let mut wake = pin!(sleep_until(Instant::now() + after));
    let mut next = after;
    loop {
        tokio::select! {
            biased;
            outcome = &mut first, if failure.is_none() => match outcome {
                Err(error) if !rivals.is_empty() => failure = Some(error),
                outcome => return outcome,
            },
            outcome = poll_fn(|context| poll_rivals(&mut rivals, context)) => match (outcome, &failure) {
                (Ok(found), _) => return Ok(found),
                (Err(_), Some(error)) if rivals.is_empty() => return Err(error.clone()),
                (Err(_), _) => {}
            },
            () = &mut wake, if failure.is_none() => {
                if rivals.len() == RIVALS {
                    rivals.pop_front();
                }
                rivals.extend(another());
                next = (if rivals.len() < RIVALS { next } else { after } / 2).max(SOONEST.min(after));
                wake.as_mut().reset(Instant::now() + next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};

    use super::*;
    use crate::registry::RegistryError;

    const AFTER: Option<Duration> = Some(Duration::from_millis(2));

    fn failure(name: &str) -> RegistryError {
        RegistryError::NotFound { url: name.to_owned() }
    }

    #[tokio::test]
    async fn the_first_that_succeeds_wins() {
        let none = || -> Option<BoxFuture<'static, Result<u32, RegistryError>>> { panic!("it is in time") };
        assert_eq!(race(ready(Ok(1)), AFTER, none).await.unwrap(), 1);
        assert!(race(ready(Err(failure("a"))), AFTER, none).await.is_err());
        let begun = Cell::new(0);
        let third = || -> Option<BoxFuture<'static, _>> {
            begun.set(begun.get() + 1);
            Some(match begun.get() {
                1 => Box::pin(pending()),
                2 => Box::pin(ready(Err(failure("b")))),
                number => Box::pin(ready(Ok(number))),
            })
        };
        assert_eq!(race(pending(), AFTER, third).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn when_all_fail_the_error_is_that_of_the_first() {
        let first = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Err::<(), _>(failure("first"))
        };
        let slow = || -> Option<BoxFuture<'static, _>> {
            Some(Box::pin(async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                Err(failure("rival"))
            }))
        };
        let error = race(first, AFTER, slow).await.unwrap_err();
        assert!(matches!(error, RegistryError::NotFound { url } if url == "first"));
    }

    #[test]
    fn a_host_has_only_so_many() {
        let hedges = Hedges::new(AFTER);
        let all: Vec<_> = (0..MOST_AT_HOST).map(|_| hedges.permit("a").unwrap()).collect();
        assert!(hedges.permit("a").is_none());
        assert!(hedges.permit("b").is_some());
        drop(all);
        assert!(hedges.permit("a").is_some());
        assert!(hedges.out.lock().is_empty());
    }
}
