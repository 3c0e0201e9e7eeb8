//! What a pack brings is given to the kernel before the workload asks for it.
//!
//! A request of the kernel to a file system like ours costs two changes of threads, hundreds of microseconds on a machine
//! that has to wake a processor for each; a start makes thousands of them: one for each page and, where FUSE answers for names,
//! one for each name. A pack says which they will be. So pages are put into the kernel's page cache, block by block as they
//! arrive; and the names that the pack's files have are looked up ([`names`]) in all mounts of the image that need it, from the
//! lowest layer to the highest as an overlay does.
//!
//! State: the [`Warm`] of one pack is shared by three. The pack's task says what has arrived; [`Warm::run`] looks up names; a
//! thread of its own gives pages. What must always hold: nobody waits for anything here, and nothing is fetched; the thread that
//! gives pages holds nothing that others need, since the kernel lets it wait for reads that are not answered yet; bytes are
//! given only after their block was checked; what has gone wrong is tried no second time, because the kernel can always ask.

mod held;
mod names;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use soci_core::pack::PackHead;
use soci_core::units::ByteRange;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::held::Held;
use self::names::Names;
use crate::cache::bitmap::PAGE;
use crate::fs::places::Places;
use crate::fs::{InodeNo, LayerFs};
use crate::hidden::helper::Ranges;
use crate::layer::Layer;
use crate::mounts::kernel::Kernel;

/// Names that are looked up in one mount before those of the next.
const AT_ONCE: usize = 16;
/// Pieces of files that are given to the kernel at most.
const MAX_PIECES: usize = 1 << 18;
/// How long mounts are waited for.
const LONGEST: Duration = Duration::from_mins(1);

/// What is to be given to the kernel.
#[derive(Debug)]
pub(crate) struct Warm {
    /// The lazy layers, from the bottom up.
    layers: Vec<Weak<Layer>>,
    /// In the order of need.
    pieces: Vec<Piece>,
    /// The pieces of each block.
    blocks: Vec<Range<usize>>,
    /// Which blocks are here.
    arrived: Box<[AtomicBool]>,
    /// What some of them say.
    held: Held,
    /// No more will arrive.
    over: watch::Sender<bool>,
    mounts: Mutex<Vec<Arc<Mount>>>,
    /// Wakes the thread that gives pages.
    give: SyncSender<()>,
}

/// A part of a file.
#[derive(Debug)]
struct Piece {
    layer: usize,
    ino: InodeNo,
    path: Arc<[u8]>,
    /// In the file: whole pages, or up to its end.
    range: ByteRange,
    /// Where the file begins in the layer's tar.
    start: u64,
    /// Where the part begins in the plain bytes of its block.
    at: usize,
}

impl Piece {
    /// Where it is in the layer's tar.
    const fn tar(&self) -> ByteRange {
        ByteRange::new(self.start + self.range.start, self.start + self.range.end)
    }

    /// Its bytes in those of its block.
    fn of<'a>(&self, block: &'a [u8]) -> Option<&'a [u8]> {
        block.get(self.at..self.at.checked_add(usize::try_from(self.range.len()).ok()?)?)
    }
}

/// Paths of files, each kept once.
type Paths = HashMap<InodeNo, Arc<[u8]>>;

/// One mount of a layer.
#[derive(Debug)]
struct Mount {
    kernel: Weak<Kernel>,
    layer: usize,
    /// So many pieces were looked up.
    named: AtomicUsize,
    names: Mutex<Names>,
    /// What became of each block. Whoever gives holds the lock.
    given: Mutex<Vec<Given>>,
}

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    /// Nothing yet.
    Not,
    /// The kernel has its pages, but those of the image that its files are in.
    ToImage,
    /// The kernel has its pages.
    ToFiles,
}

impl Warm {
    /// What is needed before readiness of the pack with this head; `layers` are those that are served lazily, from the bottom
    /// up, and the pack's layer `n` is that at place `places[n]`.
    pub(crate) fn new(head: &PackHead, layers: &[Arc<Layer>], places: &[Option<usize>]) -> Arc<Self> {
        let mut files: HashMap<usize, (LayerFs, Places, Paths)> = HashMap::new();
        let mut pieces: Vec<Piece> = Vec::new();
        let mut blocks = Vec::new();
        for block in 0..head.must_have() {
            let first = pieces.len();
            let mut behind = 0;
            for extent in head.extents(block) {
                let before = behind;
                behind += extent.range.len();
                let Some(layer) = places.get(usize::from(extent.layer)).copied().flatten() else { continue };
                let (fs, files, paths) = files.entry(layer).or_insert_with(|| {
                    let fs = layers[layer].fs();
                    let files = Places::of(&fs);
                    (fs, files, HashMap::new())
                });
                for (file, part) in files.pieces(extent.range) {
                    let range = whole_pages(part, file.content.len());
                    if range.is_empty() || pieces.len() == MAX_PIECES {
                        continue;
                    }
                    let start = file.content.start;
                    let at = (before + start + range.start - extent.range.start) as usize;
                    if let Some(last) = pieces[first..].last_mut()
                        && (last.layer, last.ino, last.range.end) == (layer, file.ino, range.start)
                        && last.at + last.range.len() as usize == at
                    {
                        last.range.end = range.end;
                        continue;
                    }
                    let path = || Places::path(fs, file.ino).unwrap_or_default().into();
                    let path = Arc::clone(paths.entry(file.ino).or_insert_with(path));
                    pieces.push(Piece { layer, ino: file.ino, path, range, start, at });
                }
            }
            blocks.push(first..pieces.len());
        }
        let (give, wakes) = sync_channel(1);
        let warm = Arc::new(Self {
            layers: layers.iter().map(Arc::downgrade).collect(),
            pieces,
            arrived: blocks.iter().map(|_| AtomicBool::new(false)).collect(),
            blocks,
            held: Held::default(),
            over: watch::Sender::default(),
            mounts: Mutex::default(),
            give,
        });
        let this = Arc::downgrade(&warm);
        let giving = thread::Builder::new().name("pack-pages".into()).spawn(move || {
            while wakes.recv().is_ok() {
                let Some(warm) = this.upgrade() else { return };
                warm.give_all();
            }
        });
        if let Err(error) = giving {
            tracing::warn!(%error, "pages of the pack will not be given to the kernel ahead");
        }
        warm
    }

    /// A block is in the caches. Who has its bytes in memory gives them.
    pub(crate) fn arrived(&self, block: usize, plain: Option<Vec<u8>>) {
        if let Some(arrived) = self.arrived.get(block) {
            if let Some(plain) = plain {
                let mut layers: Vec<_> =
                    self.pieces[self.blocks[block].clone()].iter().map(|piece| piece.layer).collect();
                layers.sort_unstable();
                layers.dedup();
                self.held.hold(block, plain, layers);
            }
            arrived.store(true, Ordering::Release);
            self.wake_giver();
        }
    }

    /// No more blocks will come.
    pub(crate) fn over(&self) {
        self.over.send_replace(true);
    }

    /// Does nothing when it is to wake up already.
    fn wake_giver(&self) {
        let _ = self.give.try_send(());
    }

    /// Looks up names until all is done for all mounts, or nobody wants it any more.
    pub(crate) async fn run(self: Arc<Self>, mut mounted: watch::Receiver<()>) {
        let mut over = self.over.subscribe();
        let until = Instant::now() + LONGEST;
        loop {
            let this = Arc::clone(&self);
            let Ok(step) = tokio::task::spawn_blocking(move || this.step()).await else { return };
            match step {
                Step::More => {}
                Step::Done => return,
                Step::Wait => tokio::select! {
                    _ = over.changed() => {}
                    _ = mounted.changed() => {}
                    () = sleep_until(until) => return,
                },
            }
        }
    }

    /// Looks up some names in each mount. Blocking.
    fn step(&self) -> Step {
        // Asked before anything is done: what comes later is another step's.
        let over = *self.over.borrow();
        let layers: Vec<_> = self.layers.iter().map(Weak::upgrade).collect();
        if layers.iter().all(Option::is_none) {
            return Step::Done;
        }
        let mounts = self.mounts(&layers);
        let mut more = false;
        for mount in &mounts {
            let Some(kernel) = mount.kernel.upgrade().filter(|kernel| kernel.is_there()) else { continue };
            let named = mount.named.load(Ordering::Acquire);
            let behind =
                if kernel.has_image() { self.pieces.len() } else { self.pieces.len().min(named + AT_ONCE) };
            if !kernel.has_image() {
                let mut names = mount.names.lock();
                for piece in &self.pieces[named..behind] {
                    names.know(&piece.path, mount.layer >= piece.layer, &kernel);
                }
            }
            mount.named.store(behind, Ordering::Release);
            more |= behind < self.pieces.len();
        }
        self.wake_giver();
        let waited_for = |at: usize| layers[at].is_some() && !mounts.iter().any(|mount| mount.layer == at);
        if more {
            Step::More
        } else if over && !(0..layers.len()).any(waited_for) {
            // The thread that gives ends with the last who knows this, whatever is left for it.
            self.give_all();
            Step::Done
        } else {
            Step::Wait
        }
    }

    /// The mounts of the layers, known and new.
    fn mounts(&self, layers: &[Option<Arc<Layer>>]) -> Vec<Arc<Mount>> {
        let mut mounts = self.mounts.lock();
        for (at, layer) in layers.iter().enumerate() {
            for kernel in layer.iter().flat_map(|layer| layer.kernels()) {
                let kernel = Arc::downgrade(&kernel);
                if !mounts.iter().any(|mount| mount.layer == at && mount.kernel.ptr_eq(&kernel)) {
                    mounts.push(Arc::new(Mount::new(kernel, at)));
                }
            }
        }
        mounts.clone()
    }

    /// Gives each mount what has arrived, and does what is left to do with it while nothing else arrives. Blocking.
    fn give_all(&self) {
        loop {
            let mounts = self.mounts.lock().clone();
            for mount in &mounts {
                self.give_arrived(mount);
            }
            if !mounts.iter().any(|mount| self.fill_next(mount)) {
                return;
            }
        }
    }

    /// Gives a mount the blocks that have arrived and whose names it knows.
    fn give_arrived(&self, mount: &Mount) {
        let Some(kernel) = mount.kernel.upgrade().filter(|kernel| kernel.is_there()) else { return };
        let Some(layer) = self.layers[mount.layer].upgrade() else { return };
        let named = mount.named.load(Ordering::Acquire);
        let mut given = mount.given.lock();
        given.resize(self.blocks.len(), Given::Not);
        for (block, pieces) in self.blocks.iter().enumerate().take_while(|(_, pieces)| pieces.end <= named) {
            if given[block] == Given::Not && self.arrived[block].load(Ordering::Acquire) {
                given[block] = if kernel.has_image() { Given::ToImage } else { Given::ToFiles };
                self.give(block, pieces.clone(), mount, &layer, &kernel);
            }
        }
    }

    /// Lets the kernel make pages of files from the next block that it has of an image. `false`: there is none.
    fn fill_next(&self, mount: &Mount) -> bool {
        let Some(kernel) = mount.kernel.upgrade().filter(|kernel| kernel.is_there()) else { return false };
        let Some(layer) = self.layers[mount.layer].upgrade() else { return false };
        let mut given = mount.given.lock();
        let Some(block) = given.iter().position(|given| *given == Given::ToImage) else { return false };
        given[block] = Given::ToFiles;
        let of_one_file = |one: &Piece, next: &Piece| (one.layer, one.ino) == (next.layer, next.ino);
        let files = self.pieces[self.blocks[block].clone()].chunk_by(of_one_file).filter_map(|pieces| {
            let file = pieces.first().filter(|piece| piece.layer == mount.layer)?;
            // What was forgotten meanwhile would be fetched.
            let here = pieces.iter().filter(|piece| layer.spans().cache().holds(piece.tar()));
            let ranges = here.map(|piece| (piece.range.start, piece.range.len())).collect();
            Some((file.ino, Ranges { path: file.path.to_vec(), ranges }))
        });
        if let Err(error) = kernel.fill(files) {
            tracing::debug!(layer = %layer.digest(), %error, "pages were not made from the image");
        }
        true
    }

    fn give(&self, block: usize, pieces: Range<usize>, mount: &Mount, layer: &Layer, kernel: &Kernel) {
        let held = self.held.get(block);
        for piece in self.pieces[pieces].iter().filter(|piece| piece.layer == mount.layer) {
            // Asked while nothing can be forgotten. What a span had brought before is not the pack's to give.
            let bytes = || {
                let held = held.as_deref().and_then(|plain| piece.of(plain));
                match held.filter(|_| layer.spans().cache().only_packed(piece.tar())) {
                    Some(held) => Some(Cow::Borrowed(held)),
                    None => layer.spans().cached(piece.tar()).map(Cow::Owned),
                }
            };
            match kernel.give(piece.ino, piece.range.start, bytes) {
                Ok(bytes) => {
                    layer.stats().pack_given_bytes.add(bytes);
                    if bytes > 0 {
                        layer.spans().handed(piece.tar());
                    }
                }
                Err(error) => {
                    let (layer, path) = (layer.digest(), String::from_utf8_lossy(&piece.path));
                    tracing::debug!(%layer, %path, %error, "pages were not given to the kernel");
                }
            }
        }
        self.held.given(block, mount.layer);
    }
}

/// What is to be done next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// There is more to do at once.
    More,
    /// Blocks or mounts are missing.
    Wait,
    /// All is done.
    Done,
}

impl Mount {
    fn new(kernel: Weak<Kernel>, layer: usize) -> Self {
        let (names, given) = (Mutex::default(), Mutex::default());
        Self { kernel, layer, named: AtomicUsize::new(0), names, given }
    }
}

/// The pages that lie in `part` of a file of `size` bytes.
fn whole_pages(part: ByteRange, size: u64) -> ByteRange {
    let start = part.start.next_multiple_of(PAGE);
    let end = if part.end == size { size } else { part.end / PAGE * PAGE };
    ByteRange::new(start, end.max(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_that_are_whole_are_given() {
        let range = |start, end| ByteRange::new(start, end);
        for (part, size, pages) in [
            (range(0, 4096), 9000, range(0, 4096)),
            (range(1, 9000), 9000, range(4096, 9000)),
            (range(4096, 8999), 9000, range(4096, 8192)),
            (range(100, 200), 9000, range(4096, 4096)),
            (range(8192, 9000), 9000, range(8192, 9000)),
        ] {
            assert_eq!(whole_pages(part, size), pages, "{part}");
        }
    }
}
