//! Which server has the lease, who waits for it, and when patience ends.
//!
//! Pure: time and events come in, [`Action`]s go out. `C` names a connection of a server.
//!
//! What must always hold: the lease has one owner. It passes on when the owner's connection has ended, which is after all
//! threads of that process have left the kernel. Only a server that cannot be ended by SIGKILL loses it earlier, and the
//! next one is told so.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Least time between SIGKILL and taking the lease by force. A thread that waits for nobody has left the kernel by then.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action<C> {
    /// Give the lease and the descriptors.
    Grant { to: C, forced: bool },
    /// End a server that hangs.
    Kill(C),
    /// Have the kernel send again what the dead server has read. Its readers can be killed again then, too.
    Resend,
    /// Nobody has come: close the descriptors, and end.
    End,
}

/// The lease.
#[derive(Debug)]
pub(super) struct Leases<C> {
    owner: Option<C>,
    queue: VecDeque<Waiter<C>>,
    abort_after: Duration,
    /// When nobody has had the lease for too long.
    end: Option<Instant>,
}

#[derive(Debug)]
struct Waiter<C> {
    who: C,
    patience: Duration,
    until: Instant,
    killed: bool,
}

impl<C: Copy + PartialEq> Leases<C> {
    pub(super) fn new(abort_after: Duration, now: Instant) -> Self {
        Self { owner: None, queue: VecDeque::new(), abort_after, end: now.checked_add(abort_after) }
    }

    /// A server waits for the lease.
    pub(super) fn request(&mut self, who: C, patience: Duration, now: Instant) {
        let until = now.checked_add(patience).unwrap_or(now);
        self.queue.push_back(Waiter { who, patience, until, killed: false });
    }

    /// Whether a server has the lease.
    pub(super) fn is_owner(&self, who: C) -> bool {
        self.owner == Some(who)
    }

    /// The server that has the lease while another one waits for it.
    pub(super) fn contested(&self) -> Option<C> {
        self.owner.filter(|_| !self.queue.is_empty())
    }

    /// The server that has the lease was killed. What is left of it may be waiting for its successor.
    pub(super) fn owner_is_dying(&mut self, now: Instant) {
        if let Some(first) = self.queue.front_mut().filter(|first| !first.killed) {
            first.killed = true;
            first.until = now.checked_add(LEAST_PATIENCE).unwrap_or(now);
        }
    }

    /// A server's connection has ended.
    pub(super) fn gone(&mut self, who: C, now: Instant) -> Option<Action<C>> {
        self.queue.retain(|waiter| waiter.who != who);
        if self.owner != Some(who) {
            return None;
        }
        self.owner = None;
        self.end = now.checked_add(self.abort_after);
        Some(Action::Resend)
    }

    /// What is to be done next. Called until there is nothing.
    pub(super) fn step(&mut self, now: Instant) -> Option<Action<C>> {
        let owner = self.owner;
        let Some(first) = self.queue.front_mut() else {
            return (owner.is_none() && self.end.is_some_and(|end| end <= now)).then_some(Action::End);
        };
        if let Some(owner) = owner {
            if now < first.until {
                return None;
            }
            if !first.killed {
                first.killed = true;
                first.until = now.checked_add(first.patience.max(LEAST_PATIENCE)).unwrap_or(now);
                return Some(Action::Kill(owner));
            }
        }
        let to = first.who;
        self.queue.pop_front();
        self.owner = Some(to);
        Some(Action::Grant { to, forced: owner.is_some() })
    }

    /// When [`Leases::step`] has something to do, if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.owner, self.queue.front()) {
            (Some(_), waiting) => waiting.map(|waiter| waiter.until),
            (None, _) => self.end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);
    const ABORT: Duration = Duration::from_mins(10);

    #[test]
    fn a_server_that_was_killed_and_cannot_end_costs_no_patience() {
        let now = Instant::now();
        let mut leases = Leases::new(ABORT, now);
        leases.request(1, PATIENCE, now);
        assert_eq!(leases.step(now), Some(Action::Grant { to: 1, forced: false }));
        assert_eq!(leases.contested(), None);
        leases.request(2, PATIENCE, now);
        assert_eq!(leases.contested(), Some(1));
        leases.owner_is_dying(now);
        leases.owner_is_dying(now + LEAST_PATIENCE / 2);
        assert_eq!(leases.step(now), None);
        assert_eq!(leases.deadline(), Some(now + LEAST_PATIENCE));
        assert_eq!(leases.step(now + LEAST_PATIENCE), Some(Action::Grant { to: 2, forced: true }));
    }

    #[test]
    fn a_successor_waits_for_the_end_of_the_one_before() {
        let now = Instant::now();
        let mut leases = Leases::new(ABORT, now);
        leases.request(1, PATIENCE, now);
        assert_eq!(leases.step(now), Some(Action::Grant { to: 1, forced: false }));
        leases.request(2, PATIENCE, now);
        assert_eq!(leases.step(now), None);
        assert_eq!(leases.gone(1, now), Some(Action::Resend));
        assert_eq!(leases.step(now), Some(Action::Grant { to: 2, forced: false }));
        assert!(leases.is_owner(2) && !leases.is_owner(1));
        assert_eq!((leases.step(now), leases.deadline()), (None, None));
    }

    #[test]
    fn a_server_that_hangs_is_killed_and_then_passed_over() {
        let now = Instant::now();
        let mut leases = Leases::new(ABORT, now);
        leases.request(1, PATIENCE, now);
        leases.step(now);
        leases.request(2, PATIENCE, now);
        let later = leases.deadline().unwrap();
        assert_eq!(later, now + PATIENCE);
        assert_eq!(leases.step(later), Some(Action::Kill(1)));
        assert_eq!(leases.step(later), None);
        let last = leases.deadline().unwrap();
        assert_eq!(leases.step(last), Some(Action::Grant { to: 2, forced: true }));
        // The old one ends at last. That is nothing to the lease.
        assert_eq!(leases.gone(1, last), None);
        assert!(leases.is_owner(2));
    }

    #[test]
    fn a_successor_that_gives_up_lets_the_old_one_live() {
        let now = Instant::now();
        let mut leases = Leases::new(ABORT, now);
        leases.request(1, PATIENCE, now);
        leases.step(now);
        leases.request(2, PATIENCE, now);
        assert_eq!(leases.gone(2, now), None);
        assert_eq!(leases.step(now + 2 * PATIENCE), None);
    }

    #[test]
    fn nobody_for_too_long_is_the_end() {
        let now = Instant::now();
        let mut leases = Leases::new(ABORT, now);
        assert_eq!(leases.deadline(), Some(now + ABORT));
        leases.request(1, PATIENCE, now);
        leases.step(now);
        assert_eq!(leases.step(now + 2 * ABORT), None);
        let died = now + 2 * ABORT;
        leases.gone(1, died);
        assert_eq!(leases.step(died), None);
        assert_eq!(leases.step(died + ABORT), Some(Action::End));
    }
}
