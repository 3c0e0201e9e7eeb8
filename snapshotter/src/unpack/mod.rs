//! Whole layers: pulled, verified and unpacked by the snapshotter itself, several at once.
//!
//! [`Unpacker`] owns `<root>/unpack`, whose content never outlives the process, and the jobs that fill it. A job is
//! started early ([`Unpacker::start`]) or when somebody waits for it ([`Unpacker::take`]); its result is one directory,
//! which exists as long as its [`UnpackedLayer`] or becomes a snapshot's ([`UnpackedLayer::place`]). Nothing of a layer
//! whose compressed bytes or plain bytes have another digest than announced is ever given out.

mod job;
mod stream;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fs, io};

use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::registry::{FetchError, Repository};
use soci_core::unpack::UnpackError;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub use job::UnpackedLayer;

use crate::layer::LayerError;
use crate::limits::WHOLE_LAYER_BYTES;
use crate::private;
use stream::Room;

/// How long a finished layer waits for the Prepare that wants it; a pull that was given up leaves such layers.
const KEEP: Duration = Duration::from_mins(30);

/// Limits of the work.
#[derive(Debug, Clone, Copy)]
pub struct UnpackOptions {
    /// Layers in work at once.
    pub layers_at_once: usize,
    /// Bytes of one ranged request.
    pub chunk_size: u64,
    /// Requests in flight for one layer.
    pub requests_per_layer: usize,
    /// Requests in flight for all layers; `None`: any number.
    pub requests_at_once: Option<usize>,
}

/// A layer to be unpacked, as the image's manifest and configuration describe it.
#[derive(Debug, Clone)]
pub struct WholeLayer {
    /// Where the blob is.
    pub repository: Repository,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Digest of the plain tar.
    pub diff_id: Digest,
}

/// Why a layer cannot be had as a whole.
#[derive(Debug, thiserror::Error)]
pub enum WholeLayerError {
    /// The image's manifest or configuration is not to be had.
    #[error("describe layer {digest}")]
    Image {
        /// The layer.
        digest: Digest,
        /// What went wrong.
        #[source]
        source: LayerError,
    },
    /// The image's manifest or configuration does not have the layer.
    #[error("the image does not describe layer {0}")]
    NotInImage(Digest),
    /// The registry.
    #[error("fetch layer {digest}")]
    Fetch {
        /// The layer.
        digest: Digest,
        /// What went wrong.
        #[source]
        source: FetchError,
    },
    /// The archive, or the disk it is written to.
    #[error("unpack layer {digest}")]
    Unpack {
        /// The layer.
        digest: Digest,
        /// What went wrong.
        #[source]
        source: UnpackError,
    },
    /// Attributes of directories that other layers describe.
    #[error("take attributes from the layers below")]
    Inherit(#[source] UnpackError),
    /// The registry sent other bytes.
    #[error("layer {expected} arrived as {actual}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The disk.
    #[error("{action}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The process is stopping, or nobody wanted the layer for too long.
    #[error("unpacking was stopped")]
    Stopped,
}

/// What a layer is unpacked by: the same blob gives the same directory, whatever image wants it.
type Key = (Digest, Digest);

type Result<T> = std::result::Result<T, WholeLayerError>;

/// Pulls and unpacks layers. One per process.
#[derive(Debug)]
pub struct Unpacker {
    directory: PathBuf,
    options: UnpackOptions,
    limit: Arc<Semaphore>,
    room: Room,
    runtime: Handle,
    userxattr: bool,
    next: AtomicU64,
    jobs: Mutex<HashMap<Key, Job>>,
}

#[derive(Debug)]
struct Job {
    number: u64,
    task: JoinHandle<Result<UnpackedLayer>>,
}

impl Unpacker {
    /// Works in `directory`, on the same file system as the snapshots, and empties it first. `userxattr`: see
    /// [`crate::snapshot::needs_userxattr`].
    pub fn new(
        directory: PathBuf,
        options: UnpackOptions,
        userxattr: bool,
        runtime: Handle,
    ) -> io::Result<Arc<Self>> {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => private::directory(&directory)?,
        }
        Ok(Arc::new(Self {
            directory,
            options,
            limit: Arc::new(Semaphore::new(options.layers_at_once.min(Semaphore::MAX_PERMITS))),
            room: Room::new(WHOLE_LAYER_BYTES, options.requests_at_once),
            runtime,
            userxattr,
            next: AtomicU64::new(0),
            jobs: Mutex::default(),
        }))
    }

    /// Begins with a layer, unless it is in work. What nobody takes within half an hour is thrown away.
    pub fn start(self: &Arc<Self>, layer: &WholeLayer) {
        let key = (layer.digest, layer.diff_id);
        let mut jobs = self.jobs.lock();
        if jobs.contains_key(&key) {
            return;
        }
        let job = self.spawn(layer);
        let (number, unpacker) = (job.number, Arc::downgrade(self));
        jobs.insert(key, job);
        drop(jobs);
        self.runtime.spawn(async move {
            tokio::time::sleep(KEEP).await;
            let Some(unpacker) = unpacker.upgrade() else { return };
            let mut jobs = unpacker.jobs.lock();
            let is_same = jobs.get(&key).is_some_and(|job| job.number == number);
            let job = if is_same { jobs.remove(&key) } else { None };
            drop(jobs);
            if let Some(job) = job {
                job.task.abort();
            }
        });
    }

    /// Waits for a layer, which is begun if nobody did. The caller alone gets the result.
    pub async fn take(self: &Arc<Self>, layer: &WholeLayer) -> Result<UnpackedLayer> {
        let started = self.jobs.lock().remove(&(layer.digest, layer.diff_id));
        let job = started.unwrap_or_else(|| self.spawn(layer));
        job.task.await.unwrap_or(Err(WholeLayerError::Stopped))
    }

    fn spawn(self: &Arc<Self>, layer: &WholeLayer) -> Job {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (limit, options, userxattr) = (Arc::clone(&self.limit), self.options, self.userxattr);
        let room = self.room.clone();
        let (layer, directory) = (layer.clone(), self.directory.join(number.to_string()));
        let task = self.runtime.spawn(async move {
            let Ok(_permit) = limit.acquire_owned().await else { return Err(WholeLayerError::Stopped) };
            job::run(layer, directory, options, userxattr, room).await
        });
        Job { number, task }
    }
}
