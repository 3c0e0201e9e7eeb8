//! A link as fluid: the answers that are arriving share its bandwidth, each as fast as its connection has learnt to be.
//!
//! Owns what is on its way. An answer begins a round trip and the registry's time after its request; a new connection costs a round
//! trip more and begins with a small window, which doubles with each round trip (TCP's slow start). Nothing is lost, nobody queues.

use std::collections::VecDeque;

use super::parameters::Link;

/// Bytes that a new connection has on its way: ten segments.
const FIRST_WINDOW: f64 = 14_480.0;
/// A connection that was idle for so long begins anew, seconds: the shortest timeout of Linux's TCP.
const FORGETS: f64 = 0.2;
/// Bytes within which a piece counts as arrived.
const CLOSE: f64 = 0.5;

/// Who a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A reader, or a mount, waits for it.
    Demand,
    /// Ahead of readers.
    Ahead,
}

/// The link, and what is on its way. `T` names a piece of an answer.
#[derive(Debug)]
pub(super) struct Network<T> {
    link: Link,
    registry: f64,
    now: f64,
    arriving: Vec<Answer<T>>,
    waiting: VecDeque<Request<T>>,
    idle: Vec<Idle>,
    /// Bytes that have arrived.
    pub(super) received: f64,
    /// Requests that were made.
    pub(super) requests: usize,
}

#[derive(Debug)]
struct Request<T> {
    class: Class,
    /// Where each piece ends in the answer, bytes.
    pieces: VecDeque<(f64, T)>,
}

#[derive(Debug)]
struct Answer<T> {
    request: Request<T>,
    begins: f64,
    done: f64,
    window: f64,
    grows: f64,
}

#[derive(Debug)]
struct Idle {
    since: f64,
    window: f64,
}

impl<T> Network<T> {
    /// Nothing is on its way at `now`. `registry`: its own time for each request, seconds.
    pub(super) fn new(link: Link, registry: f64, now: f64) -> Self {
        let (arriving, waiting, idle) = (Vec::new(), VecDeque::new(), Vec::new());
        Self { link, registry, now, arriving, waiting, idle, received: 0.0, requests: 0 }
    }

    /// Asks for pieces of these lengths, which arrive in this order.
    pub(super) fn ask(&mut self, class: Class, pieces: impl IntoIterator<Item = (f64, T)>) {
        let mut end = 0.0;
        let pieces = pieces.into_iter().map(|(length, piece)| {
            end += length;
            (end, piece)
        });
        self.requests += 1;
        self.waiting.push_back(Request { class, pieces: pieces.collect() });
        self.dispatch();
    }

    fn dispatch(&mut self) {
        while self.arriving.len() < self.link.connections
            && let Some(request) = self.waiting.pop_front()
        {
            let first = self.now + self.link.round_trip + self.registry;
            let (begins, window) = match self.idle.pop() {
                Some(idle) if self.now - idle.since <= FORGETS + self.link.round_trip => (first, idle.window),
                Some(_) => (first, FIRST_WINDOW),
                None => (first + self.link.round_trip, FIRST_WINDOW),
            };
            let grows = begins + self.link.round_trip;
            self.arriving.push(Answer { request, begins, done: 0.0, window, grows });
        }
    }

    /// Bytes a second of each answer: none has more than its window allows, and what one cannot use the others share.
    fn rates(&self) -> Vec<f64> {
        let mut rates = vec![0.0; self.arriving.len()];
        let cap = |answer: &Answer<T>| answer.window / self.link.round_trip.max(1e-9);
        let mut open: Vec<usize> =
            (0..rates.len()).filter(|&at| self.arriving[at].begins <= self.now).collect();
        open.sort_by(|&a, &b| cap(&self.arriving[a]).total_cmp(&cap(&self.arriving[b])));
        let mut left = self.link.bandwidth;
        for (place, &at) in open.iter().enumerate() {
            rates[at] = cap(&self.arriving[at]).min(left / (open.len() - place) as f64);
            left -= rates[at];
        }
        rates
    }

    /// When the next piece arrives or a rate changes; `None`: nothing is on its way.
    pub(super) fn next(&self) -> Option<f64> {
        let rates = self.rates();
        let next = self.arriving.iter().zip(rates).map(|(answer, rate)| {
            if answer.begins > self.now {
                return answer.begins;
            }
            let missing = answer.request.pieces.front().map_or(0.0, |(end, _)| end - answer.done);
            let arrives = if missing <= CLOSE { self.now } else { self.now + missing / rate.max(1e-9) };
            if self.is_full(answer) { arrives } else { arrives.min(answer.grows) }
        });
        next.min_by(f64::total_cmp)
    }

    /// Its window lets one connection fill the link.
    fn is_full(&self, answer: &Answer<T>) -> bool {
        answer.window >= 2.0 * self.link.bandwidth * self.link.round_trip
    }

    /// Goes on to a time that is not behind [`Self::next`]. The pieces that arrive then.
    pub(super) fn advance(&mut self, to: f64) -> Vec<T> {
        let rates = self.rates();
        let (from, mut arrived) = (self.now, Vec::new());
        self.now = self.now.max(to);
        let grow_until = 2.0 * self.link.bandwidth * self.link.round_trip;
        for (answer, rate) in self.arriving.iter_mut().zip(rates) {
            if answer.begins > self.now {
                continue;
            }
            let bytes = rate * (self.now - from);
            answer.done += bytes;
            self.received += bytes;
            while answer.grows <= self.now && answer.window < grow_until {
                answer.window *= 2.0;
                answer.grows += self.link.round_trip.max(1e-6);
            }
            let here = |(end, _): &(f64, T)| *end <= answer.done + CLOSE;
            while answer.request.pieces.front().is_some_and(here) {
                arrived.extend(answer.request.pieces.pop_front().map(|(_, piece)| piece));
            }
        }
        let now = self.now;
        let over: Vec<_> = self.arriving.extract_if(.., |answer| answer.request.pieces.is_empty()).collect();
        self.idle.extend(over.into_iter().map(|answer| Idle { since: now, window: answer.window }));
        self.dispatch();
        arrived
    }

    /// Requests of a class that wait for their first byte, and those whose bytes are arriving.
    pub(super) fn out(&self, class: Class) -> (usize, usize) {
        let of = |answer: &&Answer<T>| answer.request.class == class;
        let queued = self.waiting.iter().filter(|request| request.class == class).count();
        let begun = self.arriving.iter().filter(of).filter(|answer| answer.begins <= self.now).count();
        (queued + self.arriving.iter().filter(of).count() - begun, begun)
    }

    /// Bytes that were asked for ahead of readers and have not arrived.
    pub(super) fn ahead(&self) -> f64 {
        let end = |request: &Request<T>| request.pieces.back().map_or(0.0, |(end, _)| *end);
        let is_ahead = |request: &Request<T>| request.class == Class::Ahead;
        let queued = self.waiting.iter().filter(|request| is_ahead(request)).map(end);
        let out = self.arriving.iter().filter(|answer| is_ahead(&answer.request));
        queued.sum::<f64>() + out.map(|answer| end(&answer.request) - answer.done).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times at which pieces arrive.
    fn run(network: &mut Network<u32>) -> Vec<(u32, f64)> {
        let mut times = Vec::new();
        while let Some(next) = network.next() {
            times.extend(network.advance(next).into_iter().map(|piece| (piece, (next * 1e3).round() / 1e3)));
        }
        times
    }

    #[test]
    fn answers_share_the_link_and_come_in_order() {
        let mut network = Network::new(Link::new(0.0, 80.0), 0.0, 0.0);
        network.ask(Class::Demand, [(5e6, 1), (5e6, 2)]);
        network.ask(Class::Ahead, [(5e6, 3)]);
        assert!((network.ahead() - 5e6).abs() < 1e-6);
        assert_eq!(run(&mut network), [(1, 1.0), (3, 1.0), (2, 1.5)]);
        assert_eq!((network.requests, network.out(Class::Demand)), (2, (0, 0)));
        assert!((network.received - 15e6).abs() < 2.0);
    }

    #[test]
    fn a_connection_is_slow_at_first() {
        // A round trip to connect, one to ask; then 14480 bytes in the first, twice as many in the second.
        let mut network = Network::new(Link::new(100.0, 1000.0), 0.0, 0.0);
        network.ask(Class::Demand, [(14_480.0, 1), (28_960.0, 2)]);
        assert_eq!(run(&mut network), [(1, 0.3), (2, 0.4)]);
        // It is warm now.
        network.ask(Class::Demand, [(14_480.0, 3)]);
        assert!(run(&mut network)[0].1 < 0.55);
    }

    #[test]
    fn there_are_no_more_connections_than_allowed() {
        let mut network = Network::new(Link { connections: 1, ..Link::new(10.0, 8.0) }, 0.005, 0.0);
        network.ask(Class::Demand, [(0.0, 1)]);
        network.ask(Class::Demand, [(0.0, 2)]);
        assert_eq!(network.out(Class::Demand), (2, 0));
        assert_eq!(run(&mut network), [(1, 0.025), (2, 0.04)]);
    }
}
