//! Who reads layers in a run, and packs that arrive.
//!
//! Owns nothing. A pack is streamed as `pack/stream.rs` does: it promises, gives way to readers, writes from work that blocks, looks
//! whether it was found out after each write, and takes its promises back however it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use soci_core::units::ByteRange;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::lies::WRONG;
use super::network::registry;
use super::node::{Mount, Node};
use crate::doors;
use crate::span::{PackBond, SpanError, SpanManager};

/// How a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Until it has its bytes.
    Waits,
    /// Gives up after a time.
    GivesUp(Duration),
    /// Reads on while the layer may be given up.
    IsLeft,
    /// Only what is here.
    Looks,
}

impl Node {
    /// Reads now and then.
    pub(super) async fn reader(self: Arc<Self>, number: u64) {
        for _ in 0..self.world.chance(|chance| chance.of(4..30)) {
            let pause = self
                .world
                .chance(|chance| if chance.one_in(3) { Duration::ZERO } else { chance.ms(0..3000) });
            sleep(pause / self.world.plan.tempo).await;
            let place =
                self.world.chance(|chance| chance.of(0..self.world.plan.layers.len() as u64)) as usize;
            let Some(mount) = self.mounted(place) else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (range, file) = self.choose(place, &mount);
            let manner = self.world.chance(|chance| match chance.of(0..8) {
                0 => Manner::GivesUp(chance.ms(0..700)),
                1 => Manner::IsLeft,
                2 => Manner::Looks,
                _ => Manner::Waits,
            });
            self.read(number, place, mount, range, file, manner).await;
        }
    }

    /// What to read, and of which file.
    fn choose(&self, place: usize, mount: &Mount) -> (ByteRange, ByteRange) {
        let (files, size) = (mount.spans.ztoc().files(), self.world.fixture(place).plain.len() as u64);
        self.world.chance(|chance| {
            let file = if chance.one_in(6) {
                ByteRange::new(0, size)
            } else {
                let file = &files[chance.of(0..files.len() as u64) as usize];
                ByteRange::new(file.content_offset, file.content_offset + file.size)
            };
            let longest = chance.pick(&[100, 5000, 60_000]);
            let last = if self.world.plan.crowded { file.end.min(file.start + 30_000) } else { file.end };
            let start = chance.of(file.start..last.max(file.start + 1));
            let end = (start + chance.of(1..longest)).min(file.end.max(start + 1)).min(size);
            (ByteRange::new(start, end), file)
        })
    }

    async fn read(
        &self,
        number: u64,
        place: usize,
        mount: Arc<Mount>,
        range: ByteRange,
        file: ByteRange,
        manner: Manner,
    ) {
        let spans = Arc::clone(&mount.spans);
        let used = (manner != Manner::IsLeft).then_some(mount);
        let dead = self.world.lies.lock().dead(&spans);
        self.world.log(|| format!("reader {number} {manner:?} {range} of layer {place}, dead {dead:?}"));
        let begin = self.world.elapsed();
        let outcome = if manner == Manner::Looks {
            let mut bytes = vec![0; range.len() as usize];
            spans.read_cached(range, &mut bytes).map(|is_here| is_here.then_some(bytes))
        } else {
            let task = self.world.reads(&spans, range);
            let read = spans.read(range, file);
            let outcome = match manner {
                Manner::GivesUp(after) => timeout(after, read).await.unwrap_or(Ok(Vec::new())).map(Some),
                _ => read.await.map(Some),
            };
            self.world.has_read(task);
            outcome
        };
        self.world.log(|| {
            format!("reader {number} has {:?}", outcome.as_ref().map(|bytes| bytes.as_ref().map(Vec::len)))
        });
        let took = self.world.elapsed().saturating_sub(begin);
        if took > self.world.plan.spans.read_timeout + Duration::from_millis(2) {
            self.world.wrong(format!("a read took {took:?}"));
        }
        match outcome {
            Ok(Some(bytes)) if !bytes.is_empty() => self.compare(place, range, &bytes, &dead),
            Ok(_) => {}
            Err(error) => self.may_fail(&error, manner),
        }
        drop(used);
    }

    fn compare(&self, place: usize, range: ByteRange, bytes: &[u8], dead: &[usize]) {
        let truth = self.world.fixture(place).truth(range);
        if bytes.len() != truth.len() {
            return self.world.wrong(format!("{} bytes of {range}", bytes.len()));
        }
        for (at, (found, meant)) in (range.start..).zip(bytes.iter().zip(truth)) {
            let is_excused = || *found == meant ^ WRONG && self.world.lies.lock().excuse(place, at, dead);
            if found != meant && !is_excused() {
                return self.world.wrong(format!("byte {at} of layer {place} is {found:#x}, not {meant:#x}"));
            }
        }
    }

    fn may_fail(&self, error: &SpanError, manner: Manner) {
        let fails = match manner {
            Manner::IsLeft => true,
            Manner::Looks => matches!(error, SpanError::Cache(_)),
            Manner::Waits | Manner::GivesUp(_) => {
                !self.world.plan.patient && (error.may_heal() || matches!(error, SpanError::TimedOut(_)))
            }
        };
        if !fails {
            self.world.wrong(format!("a read failed: {}", crate::span::chain(error)));
        }
    }

    /// A pack arrives.
    pub(super) async fn pack(self: Arc<Self>) {
        let begin = self.world.chance(|chance| chance.ms(0..20_000));
        sleep(begin / self.world.plan.tempo).await;
        let places: Vec<_> = (0..self.world.plan.layers.len()).collect();
        let layers: Vec<_> =
            places.into_iter().filter_map(|place| Some((place, self.mounted(place)?))).collect();
        let layers: Vec<_> =
            layers.into_iter().filter(|_| self.world.chance(|chance| !chance.one_in(3))).collect();
        if layers.is_empty() {
            return;
        }
        let layers: Vec<_> =
            layers.into_iter().map(|(place, mount)| (place, Arc::clone(&mount.spans))).collect();
        let bond = PackBond::tie(layers.iter().map(|(_, spans)| spans));
        let blocks = self.blocks(&layers);
        let lies: Vec<_> =
            blocks.iter().filter(|block| block.is_wrong).map(|block| (block.place, block.range)).collect();
        self.world.log(|| format!("pack of {} blocks, wrong {lies:?}", blocks.len()));
        let number = self.world.lies.lock().begins(&bond, layers.iter().map(|(_, spans)| spans), lies);
        let writes = Arc::new(Writes { left: AtomicUsize::new(1), node: Arc::clone(&self), number });
        self.stream(&layers, &bond, blocks, &writes).await;
        self.world.log(|| "the pack is over".to_owned());
        for (_, spans) in &layers {
            spans.promise_over();
        }
        self.world.lies.lock().promises_nothing(number);
        writes.one_less();
    }

    fn blocks(&self, layers: &[(usize, Arc<SpanManager>)]) -> Vec<Block> {
        self.world.chance(|chance| {
            let lies = self.world.plan.lying_packs && chance.one_in(2);
            let mut blocks = Vec::new();
            for (place, _) in layers {
                let (mut at, size) = (0, self.world.fixture(*place).plain.len() as u64);
                while at < size {
                    let end = (at + chance.of(1..30_000)).min(size);
                    if !chance.one_in(3) {
                        let is_wrong = lies && chance.one_in(4);
                        blocks.push(Block { place: *place, range: ByteRange::new(at, end), is_wrong });
                    }
                    at = end;
                }
            }
            // Blocks come in the order in which they are needed.
            for at in (1..blocks.len()).rev() {
                blocks.swap(at, chance.of(0..at as u64 + 1) as usize);
            }
            blocks
        })
    }

    /// Brings the blocks, or some of them.
    async fn stream(
        self: &Arc<Self>,
        layers: &[(usize, Arc<SpanManager>)],
        bond: &Arc<PackBond>,
        blocks: Vec<Block>,
        writes: &Arc<Writes>,
    ) {
        let stream = self.engine.stream(&registry(self.world.plan.layers[layers[0].0].1[0]));
        let spans_of = |place: usize| layers.iter().find(|(of, _)| *of == place).map(|(_, spans)| spans);
        let (ends_after, rate, promised) = self.world.chance(|chance| {
            let all = blocks.len() as u64 + 1;
            (
                if chance.one_in(2) { all } else { chance.of(0..all) },
                chance.pick(&[5, 50, 5000]),
                chance.of(0..all),
            )
        });
        for block in &blocks[..promised as usize] {
            spans_of(block.place).unwrap().promise(vec![block.range]);
        }
        let mut waiting = Vec::new();
        for block in blocks.into_iter().take(ends_after as usize) {
            let spans = spans_of(block.place).unwrap();
            if bond.is_broken() || layers.iter().all(|(_, spans)| spans.cancelled().is_cancelled()) {
                return;
            }
            spans.promise(vec![block.range]);
            stream.paced(block.range.len() / 3).await;
            stream.after_demand().await;
            let stands = self
                .world
                .chance(|chance| if chance.one_in(12) { chance.ms(0..4000) } else { Duration::ZERO });
            sleep(stands + Duration::from_millis(block.range.len() / 3 / rate)).await;
            let turn = stream.inflate_turn().await;
            let (told, written) = oneshot::channel();
            let (this, bond, spans) = (Arc::clone(self), Arc::clone(bond), Arc::clone(spans));
            let all: Vec<_> = layers.iter().map(|(_, spans)| Arc::clone(spans)).collect();
            let writes = Arc::clone(writes);
            writes.left.fetch_add(1, Ordering::Relaxed);
            doors::spawn(self.engine.runtime(), async move {
                let writing = move || {
                    let _turn = turn;
                    let mut bytes = this.world.fixture(block.place).truth(block.range).to_vec();
                    if block.is_wrong {
                        for byte in &mut bytes {
                            *byte ^= WRONG;
                        }
                    }
                    let stored = spans.fill_packed(&[(block.range.start, &bytes)]).is_ok();
                    if bond.is_broken() {
                        for spans in &all {
                            spans.forget_packed();
                        }
                    }
                    stored
                };
                let stored = doors::blocking(writing).await;
                writes.one_less();
                let _ = told.send(stored == Some(true));
            });
            waiting.push(written);
            // What has come of the writes so far: a write that fails ends the pack.
            let mut failed = false;
            waiting.retain_mut(|written: &mut oneshot::Receiver<bool>| match written.try_recv() {
                Ok(stored) => {
                    failed |= !stored;
                    false
                }
                Err(error) => error == oneshot::error::TryRecvError::Empty,
            });
            if failed {
                return;
            }
        }
        for written in waiting {
            let _ = written.await;
        }
    }
}

/// A part of a layer that comes at once.
struct Block {
    place: usize,
    range: ByteRange,
    is_wrong: bool,
}

/// Writes of a pack that have not ended, and the pack itself.
struct Writes {
    left: AtomicUsize,
    node: Arc<Node>,
    number: usize,
}

impl Writes {
    fn one_less(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.node.world.lies.lock().is_over(self.number);
        }
    }
}
