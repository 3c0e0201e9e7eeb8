//! All layers pulled and unpacked before the workload begins, as the snapshotter does: some layers at once, each by several ranged
//! requests, unpacked in order while the rest arrives.

use super::network::{Class, Network};
use super::parameters::{Link, Node};
use super::pool::Pool;
use super::prediction::Outcome;
use super::workload::Case;

/// Layers at once, requests of each, and bytes of one: the snapshotter's defaults.
const LAYERS: usize = 3;
const REQUESTS: usize = 3;
const CHUNK: u64 = 4 << 20;

/// One layer on its way.
#[derive(Debug, Default)]
struct Coming {
    asked: u64,
    /// Compressed bytes that are here, in order, and those that are unpacked or in work.
    here: u64,
    begun: u64,
    done: u64,
    is_busy: bool,
}

type Piece = (usize, u64);

/// Predicts such a start.
pub(super) fn start(case: &Case, link: Link, node: &Node) -> Outcome {
    // The configuration is needed, too: one round trip more.
    let mut now = node.find + (node.hops + 1.0) * link.round_trip;
    let mut pull = Pull {
        case,
        node,
        network: Network::new(link, node.registry, now),
        pool: Pool::new(node.cores),
        layers: case.layers.iter().map(|_| Coming::default()).collect(),
    };
    loop {
        pull.ask();
        let next = [pull.network.next(), pull.pool.next()].into_iter().flatten().min_by(f64::total_cmp);
        let Some(next) = next else { break };
        now = next;
        for (layer, bytes) in pull.network.advance(now) {
            pull.layers[layer].here += bytes;
        }
        for (layer, bytes) in pull.pool.advance(now) {
            let it = &mut pull.layers[layer];
            it.done += bytes;
            it.is_busy = false;
        }
        pull.unpack(now);
    }
    let begin = now + node.mount * case.layers.len() as f64 + node.launch;
    Outcome {
        begin,
        ready: begin + case.compute,
        bytes: pull.network.received,
        requests: pull.network.requests,
    }
}

struct Pull<'a> {
    case: &'a Case,
    node: &'a Node,
    network: Network<Piece>,
    pool: Pool<Piece>,
    layers: Vec<Coming>,
}

impl Pull<'_> {
    /// Asks for as much as may be out.
    fn ask(&mut self) {
        let size = |at: usize| self.case.layers[at].compressed;
        let open: Vec<usize> =
            (0..self.layers.len()).filter(|&at| self.layers[at].done < size(at)).take(LAYERS).collect();
        for at in open {
            let (size, layer) = (size(at), &mut self.layers[at]);
            while layer.asked < size && layer.asked - layer.here < CHUNK * REQUESTS as u64 {
                let bytes = CHUNK.min(size - layer.asked);
                layer.asked += bytes;
                self.network.ask(Class::Demand, [(bytes as f64, (at, bytes))]);
            }
        }
    }

    /// Lets each layer's thread go on with what is here.
    fn unpack(&mut self, now: f64) {
        for (at, layer) in self.layers.iter_mut().enumerate() {
            let bytes = layer.here - layer.begun;
            if layer.is_busy || bytes == 0 {
                continue;
            }
            (layer.begun, layer.is_busy) = (layer.here, true);
            let of = &self.case.layers[at];
            let share = bytes as f64 / of.compressed.max(1) as f64;
            let seconds = of.plain as f64 / self.node.unpack + of.files.len() as f64 * self.node.file;
            self.pool.work(now, Class::Demand, seconds * share, (at, bytes));
        }
    }
}
