//! Readers that compare each byte, name, size and link of two layers with what they must be, through the tree and through an
//! EROFS mount of the image. They push pages out again, so that they keep asking the server.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use harness::known_layer::{Kind, KnownLayer};
use harness::patience::eventually;
use parking_lot::Mutex;
use rustix::fs::{Advice, fadvise};

use super::Chance;
use super::scene::Scene;

/// What all readers have seen.
#[derive(Default)]
struct Seen {
    rounds: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    wrong: AtomicU64,
    longest: AtomicU64,
    first: Mutex<Option<String>>,
}

/// The running readers.
pub(super) struct Witnesses {
    seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What they have seen in the end.
pub(super) struct Tally {
    rounds: u64,
    bytes: u64,
    errors: u64,
    pub(super) wrong: u64,
    longest: Duration,
    first: Option<String>,
}

impl Witnesses {
    /// Starts three readers for each layer: of the tree's files, of its names, and of the mounted image's files.
    pub(super) fn start(scene: &Scene, layers: Range<u64>) -> Self {
        let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        for layer in layers {
            let known = Arc::new(KnownLayer::new(layer));
            let tree = scene.hidden().join(format!("layer{layer}.tree"));
            let image = scene.mount_image(layer);
            let source = scene.hidden().join(format!("layer{layer}.img"));
            let kinds: [(PathBuf, Option<PathBuf>, bool); 3] =
                [(tree.clone(), None, false), (image, Some(source), false), (tree, None, true)];
            for (root, source, walks) in kinds {
                let (known, seen, stop) = (Arc::clone(&known), Arc::clone(&seen), Arc::clone(&stop));
                let mut chance = Chance(0x1234_5678 + threads.len() as u64);
                threads.push(thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let looked = if walks {
                            seen.walk(&known, &root)
                        } else {
                            seen.read(&known, &root, source.as_deref(), &mut chance)
                        };
                        if let Err(error) = looked {
                            seen.errors.fetch_add(1, Ordering::Relaxed);
                            seen.first.lock().get_or_insert_with(|| format!("{}: {error}", root.display()));
                            thread::sleep(Duration::from_millis(1));
                        }
                        seen.rounds.fetch_add(1, Ordering::Relaxed);
                    }
                }));
            }
        }
        Self { seen, stop, threads }
    }

    /// Waits until each reader may have finished what it was at, and begun anew.
    pub(super) fn expect_progress(&self) {
        let before = self.seen.rounds.load(Ordering::Relaxed);
        let wanted = before + 4 * self.threads.len() as u64;
        eventually("the readers go on", || self.seen.rounds.load(Ordering::Relaxed) > wanted);
    }

    /// Waits until there are errors.
    pub(super) fn expect_errors(&self) {
        eventually("the readers get errors", || self.seen.errors.load(Ordering::Relaxed) > 20);
    }

    /// Ends the readers. None of them may hang.
    pub(super) fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        eventually("all readers end", || self.threads.iter().all(JoinHandle::is_finished));
        let seen = &self.seen;
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Tally {
            rounds: number(&seen.rounds),
            bytes: number(&seen.bytes),
            errors: number(&seen.errors),
            wrong: number(&seen.wrong),
            longest: Duration::from_micros(number(&seen.longest)),
            first: seen.first.lock().take(),
        }
    }
}

impl Tally {
    #[track_caller]
    pub(super) fn assert_clean(&self) {
        assert!(self.errors == 0 && self.wrong == 0 && self.rounds > 0, "{self}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, bytes, errors, wrong, longest, first } = self;
        write!(
            f,
            "{rounds} rounds, {bytes} bytes, {errors} errors, {wrong} wrong, longest wait {longest:?}"
        )?;
        first.iter().try_for_each(|first| write!(f, ", first: {first}"))
    }
}

impl Seen {
    fn timed<T>(&self, look: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let start = Instant::now();
        let found = look();
        self.longest.fetch_max(start.elapsed().as_micros() as u64, Ordering::Relaxed);
        found
    }

    fn wrong(&self, what: String) {
        self.wrong.fetch_add(1, Ordering::Relaxed);
        self.first.lock().get_or_insert(what);
    }

    /// Reads ranges of one file.
    fn read(
        &self,
        known: &KnownLayer,
        root: &Path,
        source: Option<&Path>,
        chance: &mut Chance,
    ) -> io::Result<()> {
        let files = known.files();
        let (index, path, size) =
            files[if chance.below(2) == 0 { 0 } else { chance.below(files.len() as u64) as usize }];
        let file = self.timed(|| File::open(root.join(path)))?;
        let outcome = (0..4).try_for_each(|_| {
            let offset = chance.below(size.max(1));
            let length = (1 + chance.below(64 << 10)).min(size - offset);
            let mut bytes = vec![0; length as usize];
            self.timed(|| file.read_exact_at(&mut bytes, offset))?;
            if bytes != known.content(index, offset, bytes.len()) {
                self.wrong(format!("{path} at {offset}, {length} bytes"));
            }
            self.bytes.fetch_add(length, Ordering::Relaxed);
            Ok(())
        });
        fadvise(&file, 0, None, Advice::DontNeed)?;
        if let Some(source) = source {
            fadvise(self.timed(|| File::open(source))?, 0, None, Advice::DontNeed)?;
        }
        outcome
    }

    /// Compares all names, sizes and links.
    fn walk(&self, known: &KnownLayer, root: &Path) -> io::Result<()> {
        for (index, node) in known.nodes() {
            let path = root.join(&node.path);
            let found = self.timed(|| fs::symlink_metadata(&path))?;
            let same = match &node.kind {
                Kind::File(size) => found.is_file() && found.len() == *size,
                Kind::Link(target) => {
                    found.is_symlink() && self.timed(|| fs::read_link(&path))? == Path::new(target)
                }
                Kind::Directory(names) => {
                    let listed = self.timed(|| {
                        let entries = fs::read_dir(&path)?;
                        entries
                            .map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()))
                            .collect()
                    });
                    let mut listed: Vec<String> = listed?;
                    listed.sort();
                    found.is_dir() && listed.iter().eq(names.keys())
                }
            };
            if !same || found.ino() & 0xffff_ffff != u64::from(index) {
                self.wrong(format!("{}: {found:?}", path.display()));
            }
        }
        let absent = self.timed(|| fs::symlink_metadata(root.join("d0/absent")));
        match absent {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(found) => {
                self.wrong(format!("there is a name that is not: {found:?}"));
                Ok(())
            }
        }
    }
}
