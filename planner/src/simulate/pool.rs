//! The cores that check and inflate: what came first is done first, and what a reader waits for goes ahead.
//!
//! Owns what is in work. Readers may use all cores, work ahead of them one fewer, if that is any; both at once share none.

use std::collections::VecDeque;

use super::network::Class;

/// The cores. `T` names a piece of work.
#[derive(Debug)]
pub(super) struct Pool<T> {
    cores: usize,
    /// When each is done.
    running: Vec<(f64, Class, T)>,
    demand: VecDeque<(f64, T)>,
    ahead: VecDeque<(f64, T)>,
}

impl<T> Pool<T> {
    pub(super) fn new(cores: usize) -> Self {
        Self { cores: cores.max(1), running: Vec::new(), demand: VecDeque::new(), ahead: VecDeque::new() }
    }

    /// Begins work of so many seconds at `now`, or queues it.
    pub(super) fn work(&mut self, now: f64, class: Class, seconds: f64, work: T) {
        match class {
            Class::Demand => self.demand.push_back((seconds, work)),
            Class::Ahead => self.ahead.push_back((seconds, work)),
        }
        self.dispatch(now);
    }

    fn dispatch(&mut self, now: f64) {
        while self.running.len() < self.cores
            && let Some((seconds, work)) = self.demand.pop_front()
        {
            self.running.push((now + seconds, Class::Demand, work));
        }
        let most = (self.cores - 1).max(1);
        let ahead = |running: &[(f64, Class, T)]| {
            running.iter().filter(|(_, class, _)| *class == Class::Ahead).count()
        };
        while self.running.len() < self.cores
            && ahead(&self.running) < most
            && let Some((seconds, work)) = self.ahead.pop_front()
        {
            self.running.push((now + seconds, Class::Ahead, work));
        }
    }

    /// When something is done next.
    pub(super) fn next(&self) -> Option<f64> {
        self.running.iter().map(|(done, ..)| *done).min_by(f64::total_cmp)
    }

    /// What is done at `now`.
    pub(super) fn advance(&mut self, now: f64) -> Vec<T> {
        let done = self.running.extract_if(.., |(done, ..)| *done <= now);
        let done: Vec<T> = done.map(|(_, _, work)| work).collect();
        self.dispatch(now);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_go_ahead_and_leave_nothing_idle() {
        let mut pool = Pool::new(2);
        for (class, work) in [(Class::Ahead, 1), (Class::Ahead, 2), (Class::Demand, 3), (Class::Demand, 4)] {
            pool.work(0.0, class, 1.0, work);
        }
        assert_eq!(pool.next(), Some(1.0));
        assert_eq!(pool.advance(1.0), [1, 3]);
        assert_eq!(pool.advance(2.0), [4, 2]);
        assert_eq!(pool.next(), None);
        let mut one = Pool::new(1);
        one.work(0.0, Class::Ahead, 1.0, 1);
        assert_eq!(one.advance(1.0), [1], "a single core works ahead, too");
    }
}
