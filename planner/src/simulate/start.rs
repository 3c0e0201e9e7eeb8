//! A start whose layers are served while they come: what is fetched before the first mount, then the workload, which works and waits.
//!
//! [`Start`] owns the clock. The three ways differ in the tables that are fetched first, and in what comes ahead of readers.

use std::collections::VecDeque;
use std::ops::Range;

use soci_core::units::ByteRange;

use super::engine::{Engine, Piece};
use super::network::Class;
use super::pack::Pack;
use super::parameters::{Layout, Link, Node};
use super::prediction::Outcome;
use super::spans::Spans;
use super::workload::Case;

/// Bytes that the kernel asks for at once.
const REQUEST: u64 = 128 << 10;
/// Bytes of a prefetch artifact for each range.
const ARTIFACT_RANGE: f64 = 60.0;
/// With a longer wait for the first byte than this, a pack comes in parts of [`PART`] bytes, several at once.
const FAR_AWAY: f64 = 0.03;
const PART: f64 = 4_194_304.0;
const PARTS_AT_ONCE: usize = 3;

/// Layers are served by the index that somebody made who knew nothing; nothing comes ahead.
pub(super) fn lazy(case: &Case, link: Link, node: &Node, layout: &Layout) -> Outcome {
    let spans = cut(case, layout, None);
    Start::new(case, link, node, &spans, 1.0).tables(Spans::ztoc).run()
}

/// Spans hug what is needed, and come in the order of need.
pub(super) fn prefetch(case: &Case, link: Link, node: &Node, layout: &Layout) -> Outcome {
    let spans = cut(case, layout, layout.hug);
    let mut start = Start::new(case, link, node, &spans, 1.0).tables(Spans::ztoc);
    start.ahead = Some(&case.plan.ranges);
    start.engine.network.ask(Class::Ahead, [(case.plan.ranges.len() as f64 * ARTIFACT_RANGE, Piece::Other)]);
    start.run()
}

/// A pack brings what is needed; what is not in it comes by the fine index.
pub(super) fn pack(case: &Case, link: Link, node: &Node, layout: &Layout) -> Outcome {
    let fine = Layout { span_size: layout.fine_span_size, min_layer_size: 0, ..*layout };
    let spans = cut(case, &fine, None);
    let mut start = Start::new(case, link, node, &spans, 0.0).tables(Spans::fine_table);
    start.begin_pack(Pack::new(case), link.round_trip + node.registry);
    start.run()
}

/// The spans of the layers that have some.
fn cut(case: &Case, layout: &Layout, hug: Option<u64>) -> Vec<Option<Spans>> {
    let of_layer = |(at, layer): (usize, &soci_core::index::LayerAnatomy)| {
        let in_parts = layer.in_parts && layer.compressed >= layout.min_layer_size;
        let wanted = hug.map(|gap| Spans::hugging(&layer.marks, &case.plan.merged(at, gap)));
        in_parts.then(|| Spans::cut(&layer.marks, layout.span_size, &wanted.unwrap_or_default()))
    };
    case.layers.iter().enumerate().map(of_layer).collect()
}

/// What the workload does.
#[derive(Debug)]
enum Reader {
    /// Its layers are not there.
    Nothing,
    /// It works until then, and needs this next.
    Works(f64, usize),
    /// It waits for these spans and blocks of its need.
    Waits(usize, Vec<(usize, usize)>, Vec<usize>),
}

struct Start<'a> {
    case: &'a Case,
    node: &'a Node,
    spans: &'a [Option<Spans>],
    engine: Engine<'a>,
    now: f64,
    /// When the layers were all there to be mounted, by layer.
    there: Vec<Option<f64>>,
    /// What is queued when all tables are there.
    ahead: Option<&'a [(usize, ByteRange)]>,
    pack: Option<Pack>,
    /// Blocks that are there, and requests for more that wait for their turn.
    blocks: Vec<bool>,
    parts: VecDeque<Range<usize>>,
    reader: Reader,
    begin: f64,
}

impl<'a> Start<'a> {
    /// The image was found out about; `more` round trips more tell where the tables are.
    fn new(case: &'a Case, link: Link, node: &'a Node, spans: &'a [Option<Spans>], more: f64) -> Self {
        let now = node.find + (node.hops + more) * link.round_trip;
        Self {
            case,
            node,
            spans,
            engine: Engine::new(link, node, spans, now),
            now,
            there: vec![None; case.layers.len()],
            ahead: None,
            pack: None,
            blocks: Vec::new(),
            parts: VecDeque::new(),
            reader: Reader::Nothing,
            begin: 0.0,
        }
    }

    /// Asks for what the layers need before they can be mounted.
    fn tables(mut self, size: impl Fn(&Spans, usize) -> u64) -> Self {
        for (at, layer) in self.case.layers.iter().enumerate() {
            let piece = match &self.spans[at] {
                Some(spans) => (size(spans, layer.files.len()) as f64, Piece::Table(at)),
                None => (layer.compressed as f64, Piece::Whole(at)),
            };
            self.engine.network.ask(Class::Demand, [piece]);
        }
        self
    }

    /// Asks for the pack.
    fn begin_pack(&mut self, pack: Pack, wait: f64) {
        let is_far = wait >= FAR_AWAY;
        self.blocks = vec![false; pack.blocks.len()];
        self.parts = pack.requests(if is_far { PART } else { f64::INFINITY }).into();
        self.pack = Some(pack);
        for _ in 0..if is_far { PARTS_AT_ONCE } else { 1 } {
            self.next_part();
        }
    }

    fn next_part(&mut self) {
        let (Some(pack), Some(part)) = (&self.pack, self.parts.pop_front()) else { return };
        let head = (part.start == 0).then_some((pack.head, Piece::Other));
        let blocks = part.map(|block| (pack.blocks[block].0, Piece::Block(block)));
        self.engine.network.ask(Class::Ahead, head.into_iter().chain(blocks).collect::<Vec<_>>());
    }

    fn run(mut self) -> Outcome {
        loop {
            if self.read() {
                let requests = self.engine.network.requests;
                let bytes = self.engine.network.received;
                return Outcome { begin: self.begin, ready: self.now, bytes, requests };
            }
            self.engine.pump(self.now);
            let works = if let Reader::Works(until, _) = self.reader { Some(until) } else { None };
            let next = self.engine.next().into_iter().chain(works).min_by(f64::total_cmp);
            // Something is on its way as long as somebody waits.
            self.now = next.unwrap_or(f64::INFINITY).max(self.now);
            if self.now.is_infinite() {
                return Outcome { begin: self.begin, ready: self.now, bytes: 0.0, requests: 0 };
            }
            for piece in self.engine.network.advance(self.now) {
                self.arrived(piece);
            }
            for piece in self.engine.pool.advance(self.now) {
                self.done(piece);
            }
        }
    }

    /// Bytes have come.
    fn arrived(&mut self, piece: Piece) {
        match piece {
            Piece::Table(layer) => self.is_there(layer),
            Piece::Whole(layer) => {
                let of = &self.case.layers[layer];
                let seconds = of.plain as f64 / self.node.unpack + of.files.len() as f64 * self.node.file;
                self.engine.pool.work(self.now, Class::Demand, seconds, piece);
            }
            Piece::Span(layer, span, class) => self.engine.arrived(self.now, layer, span, class),
            Piece::Block(block) => {
                let plain = self.pack.as_ref().map_or(0.0, |pack| pack.blocks[block].1);
                self.engine.pool.work(self.now, Class::Ahead, plain / self.node.unpack_pack, piece);
                if self.parts.front().is_some_and(|_| self.ends_a_part(block)) {
                    self.next_part();
                }
            }
            Piece::Other => {}
        }
    }

    /// Whether the request that brought a block brings no more.
    fn ends_a_part(&self, block: usize) -> bool {
        self.pack.as_ref().is_some_and(|pack| pack.requests(PART).iter().any(|part| part.end == block + 1))
    }

    /// Bytes are unpacked.
    fn done(&mut self, piece: Piece) {
        match piece {
            Piece::Whole(layer) => self.is_there(layer),
            Piece::Span(layer, span, _) => self.engine.inflated(layer, span),
            Piece::Block(block) => self.blocks[block] = true,
            Piece::Table(_) | Piece::Other => {}
        }
    }

    /// A layer can be mounted. With the last one the workload begins: layers are mounted from the lowest up.
    fn is_there(&mut self, layer: usize) {
        self.there[layer] = Some(self.now);
        if self.there.iter().any(Option::is_none) {
            return;
        }
        let mut mounted = 0.0f64;
        for ((there, spans), layer) in self.there.iter().zip(self.spans).zip(&self.case.layers) {
            let entries = if spans.is_some() { layer.files.len() } else { 0 };
            mounted = mounted.max(there.unwrap_or(0.0)) + self.node.mount + entries as f64 * self.node.entry;
        }
        if let Some(ranges) = self.ahead.take() {
            self.engine.ahead(ranges);
        }
        self.begin = mounted + self.node.launch;
        self.reader = Reader::Works(self.begin + self.case.needs.first().map_or(0.0, |need| need.after), 0);
    }

    /// Lets the workload go on. Whether it is ready.
    fn read(&mut self) -> bool {
        loop {
            match &self.reader {
                Reader::Nothing => return false,
                Reader::Works(until, _) if *until > self.now => return false,
                Reader::Works(_, next) => {
                    let next = *next;
                    let Some(need) = self.case.needs.get(next) else { return true };
                    let (blocks, missing) = match &self.pack {
                        Some(pack) => pack.find(need.layer, need.range),
                        None => (Vec::new(), vec![need.range]),
                    };
                    let mut spans = Vec::new();
                    for range in missing {
                        spans.extend(self.engine.demand(need.layer, range, need.file));
                    }
                    self.reader = Reader::Waits(next, spans, blocks);
                }
                Reader::Waits(at, spans, blocks) => {
                    let is_here = spans.iter().all(|span| self.engine.is_here(*span))
                        && blocks.iter().all(|block| self.blocks[*block]);
                    if !is_here {
                        return false;
                    }
                    let (need, next) = (&self.case.needs[*at], at + 1);
                    // What a pack brings, the kernel is given ahead.
                    let reads = if blocks.is_empty() { need.range.len().div_ceil(REQUEST) } else { 0 };
                    let work = self.case.needs.get(next).map_or_else(|| self.case.rest(), |need| need.after);
                    self.reader = Reader::Works(self.now + reads as f64 * self.node.read + work, next);
                }
            }
        }
    }
}
