//! One daemon and images of several registries: containers on them, and their files, read page by page past the kernel's
//! read-ahead.
//!
//! [`Site`] owns the daemon's process and what is mounted; both are gone after the drop.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::fs::{Advice, fadvise};
use rustix::mount::{UnmountFlags, unmount};
use soci_core::digest::Digest;
use tokio::runtime::Runtime;

use crate::daemon::Daemon;
use crate::image::{LayerSource, Published, TarWriter, gzip, publish};
use crate::pull::{By, mount_at, prepare_container, pull};
use crate::registry::TestRegistry;

/// A page.
pub const PAGE: u64 = 4096;

/// Bytes that do not compress, the same for the same seed.
pub fn words(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A published image of one layer.
#[derive(Debug, Clone)]
pub struct Image {
    /// What the registry has.
    pub published: Published,
    /// Digest of the plain layer.
    pub diff_ids: Vec<Digest>,
}

impl Image {
    /// Puts an image of these files into a registry, with spans of `span` plain bytes. Gives also the plain layer.
    pub fn new(
        registry: &TestRegistry,
        repository: &str,
        files: &[(&str, &[u8])],
        span: u64,
    ) -> (Self, Vec<u8>) {
        let mut writer = TarWriter::default();
        for (name, content) in files {
            writer.file(name, content);
        }
        let tar = writer.finish();
        let diff_id = Digest::of(&tar);
        let layer = LayerSource { gzip: gzip(&tar, 6), diff_id: Some(diff_id), ..LayerSource::default() };
        let published = publish(registry, repository, &[layer], span);
        (Self { published, diff_ids: vec![diff_id] }, tar)
    }

    /// Digest of the layer.
    pub fn layer(&self) -> String {
        self.published.layers[0].to_string()
    }
}

/// A daemon, and containers.
#[derive(Debug)]
pub struct Site {
    /// The daemon.
    pub daemon: Daemon,
    /// For its clients.
    pub runtime: Runtime,
    work: tempfile::TempDir,
    mounted: Mutex<Vec<PathBuf>>,
}

impl Site {
    /// A daemon with this configuration.
    pub fn new(config: &str) -> Self {
        let work = tempfile::tempdir().expect("a directory can be made");
        let daemon = Daemon::start(work.path(), config);
        Self { daemon, runtime: Runtime::new().expect("a runtime"), work, mounted: Mutex::default() }
    }

    /// The directory of the daemon.
    pub fn work(&self) -> &Path {
        self.work.path()
    }

    /// Pulls an image; who has what layer, and the name of the top one. What is left to the runtime stays empty.
    pub fn pull(&self, image: &Image) -> (Vec<By>, String) {
        let pulled = async {
            let mut client = self.daemon.client().await;
            pull(&mut client, &image.published, &image.diff_ids, |_, _| {}).await
        };
        self.runtime.block_on(pulled).expect("the daemon answers")
    }

    /// Mounts a container on a layer.
    pub fn container(&self, key: &str, top: &str) -> PathBuf {
        let prepared = async {
            let mut client = self.daemon.client().await;
            prepare_container(&mut client, key, top).await
        };
        let mounts = self.runtime.block_on(prepared).expect("the daemon answers");
        let target = self.work.path().join(format!("rootfs-{key}"));
        mount_at(&mounts, &target);
        self.mounted.lock().push(target.clone());
        target
    }

    /// Pulls an image, which must be lazy, and mounts a container on it.
    pub fn start(&self, key: &str, image: &Image) -> PathBuf {
        let (by, top) = self.pull(image);
        assert!(by.iter().all(|by| *by == By::Snapshotter), "not lazy: {by:?}");
        self.container(key, &top)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for target in self.mounted.get_mut().drain(..) {
            if let Err(error) = unmount(&target, UnmountFlags::DETACH) {
                eprintln!("{} stays mounted: {error}", target.display());
            }
        }
    }
}

/// A file of which single pages are read.
#[derive(Debug)]
pub struct Pages(File);

impl Pages {
    /// Opens a file.
    pub fn of(path: &Path) -> Self {
        let file = File::open(path).expect("the file can be opened");
        fadvise(&file, 0, None, Advice::Random).expect("advice is taken");
        Self(file)
    }

    /// A page, and how long it took.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self, at: u64) -> std::io::Result<(Vec<u8>, Duration)> {
        let (begun, mut page) = (Instant::now(), vec![0; PAGE as usize]);
        self.0.read_exact_at(&mut page, at)?;
        Ok((page, begun.elapsed()))
    }
}

/// The one in the middle.
pub fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
