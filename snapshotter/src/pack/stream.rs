//! A pack on its way: read as one stream, checked block by block, written to the caches of its layers.
//!
//! Owns the stream for as long as it lasts. What must always hold: a block's digest is checked before anything of it is used,
//! and the table of those digests is what the pack's manifest pins; a layer that the image does not have is a reason to use
//! nothing; whatever goes wrong, readers go on by themselves. While a reader's bytes arrive the stream is not read on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use soci_core::digest::Digest;
use soci_core::pack::{Extent, PackHead};
use soci_core::registry::{Pieces, RangeFetcher};
use soci_core::units::ByteRange;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinSet;

use super::failure::PackFailure;
use super::opening::{Ahead, Opening, open_ahead};
use super::source::PackSource;
use super::warm::Warm;
use crate::engine::Stream;
use crate::layer::Layer;
use crate::span::{PackBond, SpanManager};
use crate::telemetry::stats::{Counter, Stats};

/// Blocks that are here and not yet written, at most.
const IN_WORK: usize = 32;
/// A gap of blocks that are here already is read over when it is smaller than this, bytes: another request costs more.
const READ_OVER: u64 = 256 << 10;
/// Stored bytes behind what is being read that readers wait for, too, though they are not among what must be had first: about
/// what a reader would fetch instead.
const NEAR: u64 = 256 << 10;
/// Bytes that are read of a block before it is looked again whether a reader's arrive.
const STEP: usize = 32 << 10;
/// With a first byte that took longer than this, one connection does not fill the link for many round trips.
const FAR_AWAY: Duration = Duration::from_millis(30);
/// Parts of a pack from far away, bytes, and how many are on their way at once.
const PART: u64 = 4 << 20;
const PARTS_AT_ONCE: usize = 3;

/// What a pack needs of its image.
pub(crate) struct Target<'a> {
    /// The image manifest.
    pub(crate) image: Digest,
    /// Digests of all layers of the image, from the bottom up.
    pub(crate) layers: Vec<Digest>,
    /// The layers that are served lazily, when they are ready.
    pub(crate) lazy: std::pin::Pin<Box<dyn Future<Output = HashMap<Digest, Arc<Layer>>> + Send + 'a>>,
    /// Changes when a layer is mounted. `None`: the kernel is to be given nothing.
    pub(crate) mounted: Option<watch::Receiver<()>>,
    /// Gets the stored bytes of blocks as they arrive.
    pub(crate) packed: Arc<Counter>,
    /// Told when readers wait for what the pack brings first.
    pub(crate) promised: Option<oneshot::Sender<()>>,
}

/// A pack whose head is known.
pub(crate) struct Opened {
    head: PackHead,
    /// The rest of the answer that the head was in front of.
    reading: Option<Pieces>,
    far_away: bool,
}

impl Opened {
    /// Asks the registry for all of a pack. Gives also the bytes of the head.
    pub(crate) async fn fetch(
        pack: &PackSource,
        fetcher: &RangeFetcher,
        stream: &Stream,
    ) -> Result<(Self, Bytes), PackFailure> {
        let begun = Instant::now();
        let mut reading = Pieces::new(fetcher.fetch(ByteRange::new(0, pack.blob.size)).await?);
        let far_away = begun.elapsed() >= FAR_AWAY;
        let raw = take(stream, &mut reading, pack.head.size).await?;
        let (opened, raw) = Self::stored(pack, raw.into()).await.inspect_err(|_| {
            reading.giver().distrust();
        })?;
        Ok((Self { reading: Some(reading), far_away, ..opened }, raw))
    }

    /// Opens a pack from the bytes of its head, and returns them too. A short head may unpack to a million extents:
    /// no other task waits for that.
    pub(crate) async fn stored(pack: &PackSource, raw: Bytes) -> Result<(Self, Bytes), PackFailure> {
        let pin = pack.head;
        let opened = tokio::task::spawn_blocking(move || (pin.open(&raw), raw));
        let (head, raw) = opened.await.map_err(|_| PackFailure::Over)?;
        let head = head?;
        if head.size() != pack.blob.size {
            return Err(PackFailure::Size { found: head.size(), wanted: pack.blob.size });
        }
        Ok((Self { head, reading: None, far_away: false }, raw))
    }
}

/// Brings a pack. Ends when everything of it is in the caches, or with the reason why not.
pub(crate) async fn bring(
    opened: Opened,
    fetcher: &RangeFetcher,
    target: Target<'_>,
    stream: &Stream,
    stats: &Arc<Stats>,
) -> Result<(), PackFailure> {
    let Opened { head, mut reading, far_away } = opened;
    if head.image() != target.image {
        return Err(PackFailure::OtherImage(head.image()));
    }
    let opening = Arc::new(Opening::new(head));
    let head = opening.head();
    let Ahead { layers: lazy, opened, failure } = match &mut reading {
        Some(reading) => open_ahead(target.lazy, &opening, reading, stream.at_once()).await,
        None => Ahead { layers: target.lazy.await, opened: Vec::new(), failure: None },
    };
    if lazy.is_empty() {
        return Err(PackFailure::NothingLazy);
    }
    head.check_layers(|layer| {
        let lazy = lazy.get(layer).map(|layer| layer.uncompressed_size());
        // What is fetched whole is not written from the pack: its size does not matter.
        lazy.or_else(|| target.layers.contains(layer).then_some(u64::MAX))
    })?;
    let spans = |layer| lazy.get(layer).map(|layer| Arc::clone(layer.spans()));
    let places: Vec<_> = head.layers().iter().map(spans).collect();
    let bond = PackBond::tie(places.iter().flatten());
    let warm = target.mounted.map(|mounted| {
        let warm = warm(head, &target.layers, &lazy);
        tokio::spawn(Arc::clone(&warm).run(mounted));
        warm
    });
    drop(lazy);
    let (promised, stats) = (AtomicUsize::new(0), Arc::clone(stats));
    let packed = target.packed;
    let work = Arc::new(Work { opening: Arc::clone(&opening), places, bond, warm, promised, packed, stats });
    let promises = Promises(work.places.iter().flatten().cloned().collect());
    work.promise(head.must_have());
    if let Some(promised) = target.promised {
        // Nobody may wait any more.
        let _ = promised.send(());
    }
    let outcome = match failure {
        Some(failure) => work.place_opened(opened, stream).await.and(Err(failure)),
        None => work.read(fetcher, reading, opened, far_away, stream).await,
    };
    drop(promises);
    if let Some(warm) = &work.warm {
        warm.over();
    }
    outcome
}

/// What the kernel is to get of a pack.
fn warm(head: &PackHead, image: &[Digest], lazy: &HashMap<Digest, Arc<Layer>>) -> Arc<Warm> {
    let layers: Vec<_> = image.iter().filter_map(|digest| lazy.get(digest).cloned()).collect();
    let place = |digest: &Digest| layers.iter().position(|layer| layer.digest() == *digest);
    Warm::new(head, &layers, &head.layers().iter().map(place).collect::<Vec<_>>())
}

/// A pack whose head is known, and where its bytes go.
struct Work {
    opening: Arc<Opening>,
    /// For each of its layers the spans, if it is served lazily.
    places: Vec<Option<Arc<SpanManager>>>,
    bond: Arc<PackBond>,
    warm: Option<Arc<Warm>>,
    /// The blocks before this one are promised.
    promised: AtomicUsize,
    packed: Arc<Counter>,
    stats: Arc<Stats>,
}

/// Readers wait for what is promised; when this is dropped they do not any more.
struct Promises(Vec<Arc<SpanManager>>);

impl Drop for Promises {
    fn drop(&mut self) {
        for manager in &self.0 {
            manager.promise_over();
        }
    }
}

impl Work {
    fn head(&self) -> &PackHead {
        self.opening.head()
    }

    fn place(&self, layer: u16) -> Option<&Arc<SpanManager>> {
        self.places.get(usize::from(layer))?.as_ref()
    }

    /// Tells the layers that the blocks before this one will come soon: those that the workload cannot do without, later those
    /// that are near. Readers do not wait for the rest.
    fn promise(&self, behind: usize) {
        let first = self.promised.fetch_max(behind, Ordering::Relaxed);
        let mut ranges: HashMap<u16, Vec<ByteRange>> = HashMap::new();
        for block in first..behind {
            for extent in self.head().extents(block) {
                ranges.entry(extent.layer).or_default().push(extent.range);
            }
        }
        for (layer, mut ranges) in ranges {
            if let Some(manager) = self.place(layer) {
                ranges.sort_unstable();
                manager.promise(ranges);
            }
        }
    }

    /// The block behind those that are near to one that is read now.
    fn near(&self, block: usize) -> usize {
        let blocks = self.head().blocks();
        let behind = blocks[block].stored.end.saturating_add(NEAR);
        blocks.partition_point(|block| block.stored.start < behind)
    }

    fn arrived(&self, block: usize, plain: Option<Vec<u8>>) {
        if let Some(warm) = &self.warm {
            warm.arrived(block, plain);
        }
    }

    /// Stored bytes of blocks have come.
    fn count(&self, stored: u64) {
        self.stats.pack_bytes.add(stored);
        self.packed.add(stored);
    }

    /// Whether a block has anything that is not here.
    fn lacks(&self, block: usize) -> bool {
        self.head().extents(block).iter().any(|extent| {
            self.place(extent.layer).is_some_and(|manager| !manager.cache().holds(extent.range))
        })
    }

    /// These blocks, which are to be fetched, as ranges of their numbers, each for a request of at most about `limit` bytes.
    fn parts(&self, lacking: &[usize], limit: u64) -> Vec<std::ops::Range<usize>> {
        let blocks = self.head().blocks();
        let mut parts: Vec<std::ops::Range<usize>> = Vec::new();
        for &block in lacking {
            match parts.last_mut() {
                Some(open)
                    if blocks[block].stored.start - blocks[open.end - 1].stored.end <= READ_OVER
                        && blocks[block].stored.end - blocks[open.start].stored.start <= limit =>
                {
                    open.end = block + 1;
                }
                _ => parts.push(block..block + 1),
            }
        }
        parts
    }

    async fn read(
        self: &Arc<Self>,
        fetcher: &RangeFetcher,
        mut first: Option<Pieces>,
        opened: Vec<Vec<u8>>,
        far_away: bool,
        stream: &Stream,
    ) -> Result<(), PackFailure> {
        let next = opened.len();
        let (lacking, here): (Vec<_>, Vec<_>) =
            (next..self.head().blocks().len()).partition(|&block| self.lacks(block));
        let parts = self.parts(&lacking, if far_away { PART } else { u64::MAX });
        let room = Arc::new(Semaphore::new(IN_WORK));
        let mut reads = Vec::new();
        for part in parts {
            // The first part goes on where the answer was read to.
            let open = if part.start == next { first.take() } else { None };
            reads.push(self.part(fetcher, part, open, stream, Arc::clone(&room)));
        }
        drop(first);
        let at_once = if far_away { PARTS_AT_ONCE } else { 1 };
        let read = futures_util::stream::iter(reads).buffer_unordered(at_once).try_collect();
        let placed = async {
            self.place_opened(opened, stream).await?;
            for block in here {
                self.arrived(block, None);
            }
            Ok(())
        };
        tokio::try_join!(placed, read).map(|((), ())| ())
    }

    /// Puts the first blocks, which were opened before, where they belong.
    async fn place_opened(
        self: &Arc<Self>,
        opened: Vec<Vec<u8>>,
        stream: &Stream,
    ) -> Result<(), PackFailure> {
        if opened.is_empty() {
            return Ok(());
        }
        let (turn, this) = (stream.inflate_turn().await, Arc::clone(self));
        let placing = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut stored = 0;
            for (block, plain) in opened.into_iter().enumerate() {
                if this.lacks(block) {
                    stored += this.head().blocks()[block].stored.len();
                    this.store(block, plain)?;
                } else {
                    this.arrived(block, None);
                }
            }
            Ok::<_, PackFailure>(stored)
        });
        let stored = placing.await.map_err(|_| PackFailure::Over)??;
        self.count(stored);
        // What follows pays for it.
        stream.paced(stored).await;
        Ok(())
    }

    async fn part(
        self: &Arc<Self>,
        fetcher: &RangeFetcher,
        part: std::ops::Range<usize>,
        open: Option<Pieces>,
        stream: &Stream,
        room: Arc<Semaphore>,
    ) -> Result<(), PackFailure> {
        let blocks = self.head().blocks();
        let mut reading = if let Some(open) = open {
            open
        } else {
            let whole = ByteRange::new(blocks[part.start].stored.start, blocks[part.end - 1].stored.end);
            Pieces::new(fetcher.fetch(whole).await?)
        };
        let mut fills = JoinSet::new();
        for block in part {
            if self.places.iter().flatten().all(|manager| manager.cancelled().is_cancelled()) {
                return Err(PackFailure::Over);
            }
            if self.bond.is_broken() {
                return Err(PackFailure::Wrong);
            }
            self.promise(self.near(block));
            stream.paced(blocks[block].stored.len()).await;
            let stored = take(stream, &mut reading, blocks[block].stored.len()).await?;
            self.count(stored.len() as u64);
            let (turn, slot) = (stream.inflate_turn().await, Arc::clone(&room).acquire_owned().await.ok());
            let (this, giver) = (Arc::clone(self), reading.giver());
            fills.spawn_blocking(move || {
                let _turns = (turn, slot);
                let plain = this.opening.open(block, &stored, &giver)?;
                this.store(block, plain)
            });
            while let Some(filled) = fills.try_join_next() {
                filled.map_err(|_| PackFailure::Over)??;
            }
        }
        while let Some(filled) = fills.join_next().await {
            filled.map_err(|_| PackFailure::Over)??;
        }
        Ok(())
    }

    /// Writes the bytes of a block. Blocking.
    fn store(&self, block: usize, plain: Vec<u8>) -> Result<(), PackFailure> {
        let (mut rest, mut all) = (&plain[..], true);
        let of_one_layer = |one: &Extent, next: &Extent| one.layer == next.layer;
        for extents in self.head().extents(block).chunk_by(of_one_layer) {
            let mut parts = Vec::with_capacity(extents.len());
            for extent in extents {
                let length = usize::try_from(extent.range.len()).unwrap_or(usize::MAX);
                let (bytes, behind) = rest.split_at_checked(length).ok_or(PackFailure::Short)?;
                rest = behind;
                parts.push((extent.range.start, bytes));
            }
            if let Some(manager) = extents.first().and_then(|extent| self.place(extent.layer)) {
                all &= manager.fill_packed(&parts).map_err(PackFailure::Store)?;
            }
        }
        if self.bond.is_broken() {
            // The layers may have forgotten the pack before these bytes were written.
            self.places.iter().flatten().for_each(|manager| manager.forget_packed());
            return Err(PackFailure::Wrong);
        }
        self.stats.pack_blocks.inc();
        // What was there before need not be the same bytes: then the kernel gets what the cache has.
        self.arrived(block, all.then_some(plain));
        Ok(())
    }
}

/// The next `length` bytes, of which none are read while those of readers arrive. The caller has a limit for `length`.
async fn take(stream: &Stream, body: &mut Pieces, length: u64) -> Result<Vec<u8>, PackFailure> {
    let mut rest = usize::try_from(length).map_err(|_| PackFailure::Short)?;
    let mut bytes = Vec::new();
    while rest > 0 {
        stream.after_demand().await;
        let step = rest.min(STEP);
        if !body.take(step, &mut bytes, |_| {}).await? {
            return Err(PackFailure::Short);
        }
        rest -= step;
    }
    Ok(bytes)
}
