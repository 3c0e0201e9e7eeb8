//! The snapshotter's fetch engine, as far as time depends on it: what is asked for when, and when it is there.
//!
//! Owns which spans and blocks are there. Demand is sent at once. Ahead of readers, one request follows another as long as fewer bytes
//! are out than the link holds twice, and none begins while a reader's bytes arrive (snapshotter: `engine`, `engine::throttle`).

use std::collections::VecDeque;

use soci_core::units::ByteRange;

use super::network::{Class, Network};
use super::parameters::{Link, Node};
use super::pool::Pool;
use super::spans::Spans;
use super::walks::Walks;

/// Requests ahead of readers, and compressed bytes that one joins.
const AHEAD_REQUESTS: usize = 16;
const JOIN: u64 = 8 << 20;
/// The window of what is asked for ahead.
const WINDOW: std::ops::RangeInclusive<f64> = 524_288.0..=33_554_432.0;
/// The rest of the image: when it begins, how often it asks, and for how many bytes.
const SILENCE: f64 = 30.0;
const PERIOD: f64 = 0.5;
const BACKGROUND: u64 = 4 << 20;

/// Something that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// The table of a layer, or anything else that is waited for before the layer can be mounted.
    Table(usize),
    /// A layer that comes whole.
    Whole(usize),
    /// A span of a layer.
    Span(usize, usize, Class),
    /// A block of the pack.
    Block(usize),
    /// Nobody waits for it.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Asked,
    Here,
}

/// The engine.
#[derive(Debug)]
pub(super) struct Engine<'a> {
    node: &'a Node,
    window: f64,
    pub(super) network: Network<Piece>,
    pub(super) pool: Pool<Piece>,
    spans: &'a [Option<Spans>],
    states: Vec<Vec<State>>,
    walks: Vec<Walks>,
    /// What is fetched ahead, in order.
    queue: VecDeque<(usize, usize)>,
    rest: (usize, usize),
    rest_at: f64,
}

impl<'a> Engine<'a> {
    /// Nothing is there at `now`. `spans`: of each layer that is served in parts.
    pub(super) fn new(link: Link, node: &'a Node, spans: &'a [Option<Spans>], now: f64) -> Self {
        let wait = link.round_trip + node.registry;
        let states = spans.iter().map(|spans| vec![State::Absent; spans.as_ref().map_or(0, Spans::len)]);
        Self {
            node,
            window: (2.0 * link.bandwidth * wait).clamp(*WINDOW.start(), *WINDOW.end()),
            network: Network::new(link, node.registry, now),
            pool: Pool::new(node.cores),
            states: states.collect(),
            walks: spans.iter().map(|_| Walks::default()).collect(),
            spans,
            queue: VecDeque::new(),
            rest: (0, 0),
            rest_at: now + SILENCE,
        }
    }

    /// Queues the spans that hold these bytes, in this order.
    pub(super) fn ahead(&mut self, ranges: &[(usize, ByteRange)]) {
        for &(layer, range) in ranges {
            let spans = self.spans[layer].as_ref().map_or(0..0, |spans| spans.covering(range));
            self.queue.extend(spans.map(|span| (layer, span)));
        }
    }

    /// A reader of the file that begins at `file` wants these bytes. The spans that it waits for.
    pub(super) fn demand(&mut self, layer: usize, range: ByteRange, file: u64) -> Vec<(usize, usize)> {
        let Some(spans) = &self.spans[layer] else { return Vec::new() };
        let states = &mut self.states[layer];
        let missing: Vec<usize> = spans.covering(range).filter(|&span| states[span] != State::Here).collect();
        let (Some(&first), Some(&last)) = (missing.first(), missing.last()) else { return Vec::new() };
        let mut asked: Vec<usize> =
            missing.iter().copied().filter(|&span| states[span] == State::Absent).collect();
        if !asked.is_empty() {
            let beyond = self.walks[layer].step(first, last, file);
            asked.extend((last + 1..states.len()).take(beyond).filter(|&span| states[span] == State::Absent));
        }
        for run in asked.chunk_by(|one, next| one + 1 == *next) {
            for &span in run {
                states[span] = State::Asked;
            }
            self.network.ask(Class::Demand, run.iter().map(|&span| piece(spans, layer, span, Class::Demand)));
        }
        missing.into_iter().map(|span| (layer, span)).collect()
    }

    /// Whether a span is there.
    pub(super) fn is_here(&self, (layer, span): (usize, usize)) -> bool {
        self.states[layer][span] == State::Here
    }

    /// Asks for as much as may be out ahead of readers.
    pub(super) fn pump(&mut self, now: f64) {
        while let Some(limit) = self.room() {
            let Some(run) = self.pop(limit) else { break };
            self.ask_ahead(&run);
        }
        if now >= self.rest_at {
            self.rest_at = now + PERIOD;
            let idle = [Class::Demand, Class::Ahead].iter().all(|class| self.network.out(*class) == (0, 0));
            if idle && self.queue.is_empty() {
                let run = self.background();
                self.ask_ahead(&run);
            }
        }
    }

    /// Compressed bytes that one more request may join; `None`: none may begin.
    fn room(&self) -> Option<u64> {
        let ((waiting, receiving), (queued, begun)) =
            (self.network.out(Class::Demand), self.network.out(Class::Ahead));
        if self.queue.is_empty() || receiving > 0 || queued + begun >= AHEAD_REQUESTS {
            return None;
        }
        let out = self.network.ahead();
        if waiting > 0 { (out == 0.0).then_some(0) } else { (out < self.window).then_some(JOIN) }
    }

    fn pop(&mut self, limit: u64) -> Option<Vec<(usize, usize)>> {
        let (mut run, mut bytes): (Vec<(usize, usize)>, u64) = (Vec::new(), 0);
        while let Some(&(layer, span)) = self.queue.front() {
            if self.states[layer][span] == State::Absent {
                let cost = self.spans[layer].as_ref().map_or(0, |spans| spans.bytes(span).0);
                let follows = run
                    .last()
                    .is_none_or(|last| *last == (layer, span.wrapping_sub(1)) && bytes + cost <= limit);
                if !follows {
                    break;
                }
                bytes += cost;
                run.push((layer, span));
                self.states[layer][span] = State::Asked;
            }
            self.queue.pop_front();
        }
        (!run.is_empty()).then_some(run)
    }

    /// The next part of the image that nobody has asked for.
    fn background(&mut self) -> Vec<(usize, usize)> {
        let (mut run, mut bytes): (Vec<(usize, usize)>, u64) = (Vec::new(), 0);
        while let Some(states) = self.states.get_mut(self.rest.0) {
            let (layer, span) = self.rest;
            let Some(state) = states.get_mut(span) else {
                if !run.is_empty() {
                    break;
                }
                self.rest = (layer + 1, 0);
                continue;
            };
            let cost = self.spans[layer].as_ref().map_or(0, |spans| spans.bytes(span).0);
            if *state == State::Absent && (run.is_empty() || bytes + cost <= BACKGROUND) {
                *state = State::Asked;
                run.push((layer, span));
                bytes += cost;
            } else if !run.is_empty() {
                break;
            }
            self.rest.1 += 1;
        }
        run
    }

    fn ask_ahead(&mut self, run: &[(usize, usize)]) {
        let pieces = run
            .iter()
            .filter_map(|&(layer, span)| Some(piece(self.spans[layer].as_ref()?, layer, span, Class::Ahead)));
        let pieces: Vec<_> = pieces.collect();
        if !pieces.is_empty() {
            self.network.ask(Class::Ahead, pieces);
        }
    }

    /// A span has arrived: it is checked and inflated.
    pub(super) fn arrived(&mut self, now: f64, layer: usize, span: usize, class: Class) {
        let plain = self.spans[layer].as_ref().map_or(0, |spans| spans.bytes(span).1);
        self.pool.work(now, class, plain as f64 / self.node.inflate, Piece::Span(layer, span, class));
    }

    /// A span is there.
    pub(super) fn inflated(&mut self, layer: usize, span: usize) {
        self.states[layer][span] = State::Here;
    }

    /// When something happens next that is not the reader's.
    pub(super) fn next(&self) -> Option<f64> {
        let rest = (self.rest.0 < self.states.len()).then_some(self.rest_at);
        [self.network.next(), self.pool.next(), rest].into_iter().flatten().min_by(f64::total_cmp)
    }
}

fn piece(spans: &Spans, layer: usize, span: usize, class: Class) -> (f64, Piece) {
    (spans.bytes(span).0 as f64, Piece::Span(layer, span, class))
}
