//! What a pack brings is given to the kernel before the workload asks for it.
//!
//! A request of the kernel to a file system like ours costs two changes of threads, hundreds of microseconds on a machine
//! that has to wake a processor for each; a start makes thousands of them: one for each name, one for each page. A pack says
//! which they will be. So the names that the pack's files have are looked up in all mounts of the image, from the lowest layer
//! to the highest as an overlay does; and pages are put into the kernel's page cache, block by block as they arrive.
//!
//! Owned by the pack's task. What must always hold: nobody waits for anything here, and nothing is fetched; bytes are given
//! only after their block was checked; what has gone wrong is tried no second time, because the kernel can always ask.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use soci_core::pack::PackHead;
use soci_core::units::ByteRange;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{Layer, MountOptions};
use crate::fs::InodeNo;
use crate::fs::places::Places;
use crate::fuse::kernel::Kernel;

/// Bytes of a page of the kernel's cache.
const PAGE: u64 = 4096;
/// Names that are looked up before arrivals are looked at again.
const LOOK_AHEAD: usize = 32;
/// Pieces of files that are given to the kernel at most.
const MAX_PIECES: usize = 1 << 18;
/// How long mounts are waited for.
const LONGEST: Duration = Duration::from_mins(1);

/// What is to be given to the kernel.
#[derive(Debug)]
pub(super) struct Warm {
    /// The lazy layers, from the bottom up.
    layers: Vec<Weak<Layer>>,
    /// In the order of need.
    pieces: Vec<Piece>,
    /// Which blocks are here.
    arrived: Box<[AtomicBool]>,
    /// No more will arrive.
    over: AtomicBool,
    changed: watch::Sender<()>,
}

/// A part of a file.
#[derive(Debug)]
struct Piece {
    block: usize,
    layer: usize,
    ino: InodeNo,
    path: Arc<[u8]>,
    /// In the file: whole pages, or up to its end.
    range: ByteRange,
    /// Where the file begins in the layer's tar.
    start: u64,
}

/// How far one mount has come.
#[derive(Debug)]
struct Mount {
    kernel: Weak<Kernel>,
    layer: usize,
    /// So many pieces were looked up.
    named: usize,
    /// So many were given.
    given: usize,
    /// Directories that were looked up: whether they are there, and of how many of their files the names were needed.
    directories: HashMap<Box<[u8]>, (bool, u32)>,
    files: HashSet<Arc<[u8]>>,
}

impl Warm {
    /// What is needed before readiness of the pack with this head; `layers` are those that are served lazily, from the bottom
    /// up, and the pack's layer `n` is that at place `places[n]`.
    pub(super) fn new(head: &PackHead, layers: &[Arc<Layer>], places: &[Option<usize>]) -> Self {
        let mut files: HashMap<usize, (Places, HashMap<InodeNo, Arc<[u8]>>)> = HashMap::new();
        let mut pieces: Vec<Piece> = Vec::new();
        let blocks = head.must_have();
        for (block, extent) in
            (0..blocks).flat_map(|block| head.extents(block).iter().map(move |it| (block, it)))
        {
            let Some(layer) = places.get(usize::from(extent.layer)).copied().flatten() else { continue };
            let (files, paths) = files
                .entry(layer)
                .or_insert_with(|| (Places::of(&layers[layer].fs(MountOptions::default())), HashMap::new()));
            for (file, part) in files.pieces(extent.range) {
                let range = whole_pages(part, file.content.len());
                if range.is_empty() || pieces.len() == MAX_PIECES {
                    continue;
                }
                if let Some(last) = pieces.last_mut()
                    && (last.block, last.layer, last.ino, last.range.end)
                        == (block, layer, file.ino, range.start)
                {
                    last.range.end = range.end;
                    continue;
                }
                let path = Arc::clone(paths.entry(file.ino).or_insert_with(|| Arc::from(&*file.path)));
                pieces.push(Piece { block, layer, ino: file.ino, path, range, start: file.content.start });
            }
        }
        Self {
            layers: layers.iter().map(Arc::downgrade).collect(),
            pieces,
            arrived: (0..blocks).map(|_| AtomicBool::new(false)).collect(),
            over: AtomicBool::new(false),
            changed: watch::Sender::default(),
        }
    }

    /// A block is in the caches.
    pub(super) fn arrived(&self, block: usize) {
        if let Some(arrived) = self.arrived.get(block) {
            arrived.store(true, Ordering::Release);
            self.changed.send_replace(());
        }
    }

    /// No more blocks will come.
    pub(super) fn over(&self) {
        self.over.store(true, Ordering::Release);
        self.changed.send_replace(());
    }

    /// Works until all that has arrived was given to all mounts, or nobody wants it any more.
    pub(super) async fn run(self: Arc<Self>, mut mounted: watch::Receiver<()>) {
        let mut changed = self.changed.subscribe();
        let until = Instant::now() + LONGEST;
        let mut mounts = Vec::new();
        loop {
            let this = Arc::clone(&self);
            let stepped = tokio::task::spawn_blocking(move || {
                let step = this.step(&mut mounts);
                (mounts, step)
            });
            let Ok((known, step)) = stepped.await else { return };
            mounts = known;
            match step {
                Step::More => {}
                Step::Done => return,
                Step::Wait => tokio::select! {
                    _ = changed.changed() => {}
                    _ = mounted.changed() => {}
                    () = sleep_until(until) => return,
                },
            }
        }
    }

    /// Does some of what can be done now. Blocking.
    fn step(&self, mounts: &mut Vec<Mount>) -> Step {
        // Asked before anything is done: what comes later is another step's.
        let over = self.over.load(Ordering::Acquire);
        let layers: Vec<_> = self.layers.iter().map(Weak::upgrade).collect();
        if layers.iter().all(Option::is_none) {
            return Step::Done;
        }
        for (at, layer) in layers.iter().enumerate() {
            for kernel in layer.iter().flat_map(|layer| layer.kernels()) {
                let kernel = Arc::downgrade(&kernel);
                if !mounts.iter().any(|mount| mount.layer == at && mount.kernel.ptr_eq(&kernel)) {
                    mounts.push(Mount::new(kernel, at));
                }
            }
        }
        let mut more = false;
        for mount in &mut *mounts {
            let Some(kernel) = mount.kernel.upgrade().filter(|kernel| kernel.is_there()) else { continue };
            let Some(layer) = &layers[mount.layer] else { continue };
            self.give(mount, layer, &kernel);
            let behind = (mount.named + LOOK_AHEAD).min(self.pieces.len());
            while mount.named < behind {
                mount.name(&self.pieces[mount.named], &kernel);
                mount.named += 1;
            }
            more |= mount.named < self.pieces.len();
        }
        let waited_for = |at: usize| layers[at].is_some() && !mounts.iter().any(|mount| mount.layer == at);
        if more {
            Step::More
        } else if over && !(0..layers.len()).any(waited_for) {
            Step::Done
        } else {
            Step::Wait
        }
    }

    /// Gives a mount what has arrived, in order.
    fn give(&self, mount: &mut Mount, layer: &Layer, kernel: &Kernel) {
        let is_here = |piece: &Piece| self.arrived[piece.block].load(Ordering::Acquire);
        while let Some(piece) = self.pieces.get(mount.given).filter(|piece| is_here(piece)) {
            mount.given += 1;
            if piece.layer != mount.layer {
                continue;
            }
            mount.name(piece, kernel);
            let tar = ByteRange::new(piece.start + piece.range.start, piece.start + piece.range.end);
            let Some(bytes) = layer.spans().cached(tar) else { continue };
            match kernel.give(piece.ino, piece.range.start, &bytes) {
                Ok(()) => layer.stats.pack_given_bytes.add(bytes.len() as u64),
                Err(error) => {
                    tracing::debug!(ino = piece.ino.0, %error, "pages were not given to the kernel")
                }
            }
        }
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
        Self { kernel, layer, named: 0, given: 0, directories: HashMap::new(), files: HashSet::new() }
    }

    /// Looks up what an overlay will look up here when the file is opened: the file in its own layer and in those above; its
    /// directory in all.
    fn name(&mut self, piece: &Piece, kernel: &Kernel) {
        if self.files.contains(&piece.path) {
            return;
        }
        self.files.insert(Arc::clone(&piece.path));
        let directory = parent(&piece.path);
        if !self.directory(directory, kernel) || self.layer < piece.layer {
            return;
        }
        if let Some((_, files)) = self.directories.get_mut(directory) {
            *files += 1;
            // With the second file all names of the directory are cheaper.
            if *files == 2 {
                kernel.list(directory);
            }
        }
        kernel.look_up(&piece.path);
    }

    fn directory(&mut self, path: &[u8], kernel: &Kernel) -> bool {
        if let Some((is_there, _)) = self.directories.get(path) {
            return *is_there;
        }
        let is_there = path.is_empty() || self.directory(parent(path), kernel) && kernel.look_up(path);
        self.directories.insert(path.into(), (is_there, 0));
        is_there
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |slash| &path[..slash])
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

    #[test]
    fn parents_end_at_the_root() {
        for (path, above) in [("a/b/c", "a/b"), ("a/b", "a"), ("a", ""), ("", "")] {
            assert_eq!(parent(path.as_bytes()), above.as_bytes());
        }
    }
}
