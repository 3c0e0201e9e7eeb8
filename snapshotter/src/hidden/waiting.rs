//! Requests that wait for content, and which of them may end early.
//!
//! Owned by the connection's [`Device`](super::device::Device). An entry is the right to answer: whoever takes it out answers,
//! and nobody else. So a request is answered once, whether its content arrives or its reader dies first.
//!
//! The kernel says INTERRUPT for *any* signal of the waiting thread, and it says so once. To end the request then would
//! break programs that only have a signal handler: their page fault becomes SIGBUS, their read(2) an EINTR that files never give.
//! So an interrupted request goes on waiting until its thread is dying.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::dying::has_sigkill;

/// How often interrupted requests are looked at. It bounds how long a killed reader stays.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The table.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    requests: Mutex<Requests>,
    /// A request was interrupted, or the table was closed.
    interrupted: Condvar,
    /// The last request is gone.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct Requests {
    all: HashMap<u64, Waiter>,
    interrupted: usize,
    closed: bool,
}

#[derive(Debug)]
struct Waiter {
    pid: u32,
    interrupted: bool,
}

impl Waiting {
    /// Adds a request. `interrupted`: an earlier process may have been told of an INTERRUPT.
    pub(crate) fn add(&self, unique: u64, pid: u32, interrupted: bool) {
        let mut requests = self.requests.lock();
        requests.interrupted += usize::from(interrupted);
        if let Some(replaced) = requests.all.insert(unique, Waiter { pid, interrupted }) {
            requests.interrupted -= usize::from(replaced.interrupted);
        }
        if interrupted {
            self.interrupted.notify_all();
        }
    }

    /// Takes a request out. `true`: the caller answers it.
    pub(crate) fn take(&self, unique: u64) -> bool {
        let mut requests = self.requests.lock();
        let taken = requests.all.remove(&unique);
        requests.interrupted -= usize::from(taken.as_ref().is_some_and(|waiter| waiter.interrupted));
        if requests.all.is_empty() {
            self.emptied.notify_all();
        }
        taken.is_some()
    }

    /// The kernel says that the thread of a request has a signal. `false`: the request does not wait here.
    pub(crate) fn interrupt(&self, unique: u64) -> bool {
        let mut requests = self.requests.lock();
        let Some(waiter) = requests.all.get_mut(&unique) else { return false };
        let new = !std::mem::replace(&mut waiter.interrupted, true);
        requests.interrupted += usize::from(new);
        self.interrupted.notify_all();
        true
    }

    /// Takes out the requests whose thread is dying. Waits until there are some. `None` after [`Waiting::close`].
    pub(crate) fn take_dying(&self) -> Option<Vec<u64>> {
        let mut requests = self.requests.lock();
        loop {
            if requests.closed {
                return None;
            }
            let suspects = requests.all.iter().filter(|(_, waiter)| waiter.interrupted);
            let suspects: Vec<_> = suspects.map(|(unique, waiter)| (*unique, waiter.pid)).collect();
            drop(requests);
            let dying = suspects.into_iter().filter(|(_, pid)| is_dying(*pid)).map(|(unique, _)| unique);
            // One that was answered meanwhile is not there any more.
            let taken: Vec<_> = dying.filter(|unique| self.take(*unique)).collect();
            if !taken.is_empty() {
                return Some(taken);
            }
            requests = self.requests.lock();
            if requests.interrupted > 0 {
                self.interrupted.wait_for(&mut requests, LOOK_AGAIN);
            } else if !requests.closed {
                self.interrupted.wait(&mut requests);
            }
        }
    }

    /// Waits until no request waits, at most for `limit`. How many are left.
    pub(crate) fn drain(&self, limit: Duration) -> usize {
        let mut requests = self.requests.lock();
        self.emptied.wait_while_for(&mut requests, |requests| !requests.all.is_empty(), limit);
        requests.all.len()
    }

    /// Requests that wait.
    pub(crate) fn len(&self) -> usize {
        self.requests.lock().all.len()
    }

    /// Ends [`Waiting::take_dying`].
    pub(crate) fn close(&self) {
        self.requests.lock().closed = true;
        self.interrupted.notify_all();
    }
}

/// Whether a thread is being ended. Of a thread that we cannot see nothing is known: it waits.
fn is_dying(pid: u32) -> bool {
    let status = if pid == 0 { None } else { fs::read_to_string(format!("/proc/{pid}/status")).ok() };
    status.is_some_and(|status| has_sigkill(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered_once() {
        let waiting = Waiting::default();
        waiting.add(4, 0, false);
        assert!(waiting.interrupt(4) && !waiting.interrupt(6));
        assert!(waiting.take(4) && !waiting.take(4));
        assert_eq!((waiting.len(), waiting.requests.lock().interrupted), (0, 0));
    }

    #[test]
    fn a_thread_that_lives_goes_on_waiting() {
        let waiting = Waiting::default();
        waiting.add(2, std::process::id(), false);
        waiting.add(8, 0, true);
        waiting.interrupt(2);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| waiting.take_dying());
            assert_eq!(waiting.drain(3 * LOOK_AGAIN), 2);
            waiting.close();
            assert_eq!(watch.join().unwrap(), None);
        });
        assert!(waiting.take(2) && waiting.take(8));
    }

    #[test]
    fn draining_ends_with_the_last_request() {
        let waiting = Waiting::default();
        waiting.add(2, 0, false);
        std::thread::scope(|scope| {
            let drain = scope.spawn(|| waiting.drain(Duration::from_mins(1)));
            waiting.take(2);
            assert_eq!(drain.join().unwrap(), 0);
        });
    }
}
