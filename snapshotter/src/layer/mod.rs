//! Remote layers: from an image's name to layers that can be mounted before they are here.
//!
//! [`Node`] owns what the process has once: registry client, store of small blobs, cache directory, fetch engine, and
//! the tables of live images and layers. [`ImageContext`] is one image's way from its manifest to its layers.
//! [`Layer`] is one layer that is ready: zTOC, tree, spans.
//!
//! What must always hold: everything that is needed to make a layer again is in the store before the layer is handed
//! out, so a restart needs no registry. A failure is not remembered. Prefetch never delays a layer.

mod ahead;
mod companions;
mod found;
mod image;
mod node;
mod opening;
mod pack;
mod pack_options;
mod resolver;
mod tables;
mod warm;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use soci_core::digest::{Digest, DigestError};
use soci_core::image::{ConfigError, ManifestError};
use soci_core::prefetch::ArtifactError;
use soci_core::registry::RegistryError;
use soci_core::store::StoreError;
use soci_core::tree::{LayerTree, Reason};
use soci_core::ztoc::ZtocError;
use tokio::sync::watch;

use crate::erofs::Image;
use crate::erofs::device::Device;
use crate::fs::xattr::OpaqueMark;
use crate::fs::{Inherited, LayerFs, inodes};
use crate::fuse::kernel::Kernel;
use crate::fuse::{Adapter, FuseOptions};
use crate::span::{Interest, SpanManager, chain};
use crate::stats::Stats;

pub use crate::fuse::mount::{FuseMount, MountError};
pub use companions::Companions;
pub use image::{ImageContext, ImageRequest, LayerState};
pub use node::{Node, NodeOptions};
pub use pack_options::PackOptions;
pub use resolver::{Discovery, ManifestAndConfig};

/// Why an image or layer cannot be served lazily now.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The registry did not give a manifest or blob.
    #[error("{what} {digest} could not be fetched")]
    Registry {
        /// What was asked for.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// The registry client's error.
        #[source]
        source: Box<RegistryError>,
    },
    /// The store of small blobs failed.
    #[error("content store failed")]
    Store(#[from] StoreError),
    /// A manifest cannot be used.
    #[error("manifest {digest} is not valid")]
    Manifest {
        /// The manifest.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: ManifestError,
    },
    /// The image's configuration cannot be used.
    #[error("image configuration is not valid")]
    Config(#[source] ConfigError),
    /// A manifest is no SOCI index.
    #[error("manifest {digest} with config type {config:?} is not a SOCI index")]
    NotAnIndex {
        /// The manifest.
        digest: Digest,
        /// Its config's media type.
        config: String,
    },
    /// An annotation that should hold a digest does not.
    #[error("annotation {key} holds no digest")]
    Annotation {
        /// The annotation.
        key: &'static str,
        /// What is wrong.
        #[source]
        source: DigestError,
    },
    /// A zTOC cannot be used.
    #[error("zTOC {digest} is not valid")]
    Ztoc {
        /// The zTOC.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: ZtocError,
    },
    /// A zTOC speaks of another layer.
    #[error("zTOC is for a layer of {found} bytes, the image's layer has {wanted}")]
    Size {
        /// The size in the zTOC.
        found: u64,
        /// The size in the manifest.
        wanted: u64,
    },
    /// A span is too long to be fetched and checked in memory.
    #[error("the index has a span of {length} bytes; the limit `span-bytes` is {limit}")]
    LongSpan {
        /// Compressed bytes of the longest span.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// The index has no zTOC for the layer, and its fine index cannot be used.
    #[error("the layer has no zTOC, and its fine index cannot be used")]
    NoTable,
    /// A prefetch artifact cannot be used.
    #[error("prefetch artifact {digest} is not valid")]
    Artifact {
        /// The artifact.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: ArtifactError,
    },
    /// The layer has entries that no layer can have. No unpacker takes them either.
    #[error("layer has {count} entries that cannot be shown, the first is {name:?}: {reason}")]
    Entries {
        /// How many.
        count: usize,
        /// Name of the first.
        name: String,
        /// What is wrong with it.
        reason: Reason,
    },
    /// The cache directory failed.
    #[error("span cache could not be opened")]
    Cache(#[source] std::io::Error),
    /// A blob is larger than its descriptor or than what is sane.
    #[error("{what} {digest} has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The registry gives no parts of the layer: it can only be read as a whole.
    #[error("the registry gives no parts of layer {0}: it ignores ranges")]
    NoParts(Digest),
    /// It was looked for a short while ago, and failed.
    #[error(transparent)]
    Shared(Arc<LayerError>),
    /// The process is ending.
    #[error("the work was cut off")]
    CutOff,
}

impl LayerError {
    fn registry(what: &'static str, digest: Digest, source: RegistryError) -> Self {
        Self::Registry { what, digest, source: Box::new(source) }
    }
}

/// A layer that can be mounted: its metadata is in memory, its bytes come as they are needed.
#[derive(Debug)]
pub struct Layer {
    digest: Digest,
    spans: Arc<SpanManager>,
    tree: Arc<LayerTree>,
    fuse: FuseOptions,
    /// Whether the kernel is to be given images, as long as none has failed.
    images: Arc<AtomicBool>,
    /// That of a mount with the default options, of a layer that implies no directories.
    image: OnceLock<Option<Arc<Device>>>,
    stats: Arc<Stats>,
    runtime: tokio::runtime::Handle,
    kernels: Mutex<Vec<Weak<Kernel>>>,
    /// Changes when any layer is mounted.
    mounted: watch::Sender<()>,
    _interest: Interest,
}

/// How one mount of a layer differs from another.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// The attribute by which the overlay above knows opaque directories.
    pub opaque: OpaqueMark,
    /// Directories of the layers below, nearest first, unpacked or mounted: they say what the directories look like that the
    /// layer only implies.
    pub below: Vec<PathBuf>,
}

impl Layer {
    /// Digest of the compressed layer.
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// Size of the compressed layer in bytes.
    pub fn size(&self) -> u64 {
        self.spans.ztoc().compressed_size()
    }

    /// Size of the plain tar in bytes.
    pub fn uncompressed_size(&self) -> u64 {
        self.spans.ztoc().uncompressed_size()
    }

    /// Bytes of the plain tar that are in the cache, in whole pages.
    pub fn cached_size(&self) -> u64 {
        self.spans.cache().bytes_present()
    }

    /// The spans.
    pub const fn spans(&self) -> &Arc<SpanManager> {
        &self.spans
    }

    /// Whether mounts of the layer on different layers differ.
    pub fn implies_directories(&self) -> bool {
        self.tree.implies_directories()
    }

    /// The file system, as a mount on nothing shows it.
    pub fn fs(&self) -> LayerFs {
        self.fs_on(OpaqueMark::default(), Inherited::default())
    }

    fn fs_on(&self, opaque: OpaqueMark, inherited: Inherited) -> LayerFs {
        LayerFs::new(Arc::clone(&self.tree), Arc::clone(&self.spans), opaque, inherited)
    }

    /// The file system, as a mount with these options shows it.
    fn fs_with(&self, options: &MountOptions) -> Result<LayerFs, MountError> {
        let inherited = Inherited::read(&self.tree, self.spans.ztoc().files(), &options.below);
        Ok(self.fs_on(options.opaque, inherited.map_err(MountError::Below)?))
    }

    /// Mounts the layer read-only on an existing directory. Blocking, for the time of one mount(2) and the kernel's
    /// greeting; needs CAP_SYS_ADMIN. The mount keeps the layer alive.
    pub fn mount(
        self: &Arc<Self>,
        mountpoint: &Path,
        options: &MountOptions,
    ) -> Result<FuseMount, MountError> {
        let mounted = self.mount_somehow(mountpoint, options);
        match &mounted {
            Ok(mount) => {
                self.stats.fuse_mounts.inc();
                self.kernels.lock().extend(mount.kernel().map(Arc::downgrade));
                self.mounted.send_replace(());
            }
            Err(_) => self.stats.fuse_mount_failures.inc(),
        }
        mounted
    }

    fn adapter<A>(self: &Arc<Self>, of: Arc<A>) -> Adapter<A, Arc<Self>> {
        Adapter::new(of, self.fuse, self.runtime.clone(), Arc::clone(&self.stats), Arc::clone(self))
    }

    /// As an image, or else by FUSE alone. When the kernel cannot have images at all, they are tried no more.
    fn mount_somehow(
        self: &Arc<Self>,
        mountpoint: &Path,
        options: &MountOptions,
    ) -> Result<FuseMount, MountError> {
        let mut refused = None;
        if let Some(device) = self.image(options)? {
            match FuseMount::of_image(self.adapter(device), mountpoint) {
                Ok(mount) => {
                    self.stats.erofs_mounts.inc();
                    return Ok(mount);
                }
                Err(error) => refused = Some(error),
            }
        }
        let mount = FuseMount::new(self.adapter(Arc::new(self.fs_with(options)?)), mountpoint)?;
        if let Some(error) = refused {
            if error.is_of_every_image(self.stats.erofs_mounts.get() > 0) {
                self.images.store(false, Ordering::Relaxed);
                tracing::info!(error = %chain(&error), "layers cannot be mounted as images here: FUSE answers for names, too");
            } else {
                tracing::warn!(error = %chain(&error), "this layer cannot be mounted as an image: FUSE answers for its names, too");
            }
        }
        Ok(mount)
    }

    /// The layer's image for a mount, if it is wanted and can be made. Blocking, for milliseconds.
    fn image(&self, options: &MountOptions) -> Result<Option<Arc<Device>>, MountError> {
        if !self.images.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if options.opaque == OpaqueMark::default() && !self.implies_directories() {
            return Ok(self.image.get_or_init(|| self.image_of(self.fs())).clone());
        }
        Ok(self.image_of(self.fs_with(options)?))
    }

    /// Makes the image ahead of the mounts, if nearly all of them show the same.
    fn image_ahead(&self) {
        if self.images.load(Ordering::Relaxed) && !self.implies_directories() {
            self.image.get_or_init(|| self.image_of(self.fs()));
        }
    }

    fn image_of(&self, fs: LayerFs) -> Option<Arc<Device>> {
        let image = Image::of(&fs).inspect_err(|error| {
            tracing::warn!(layer = %self.digest, error = %chain(error), "layer has no image: its names are asked for");
        });
        Some(Arc::new(Device::new(Arc::new(fs), image.ok()?)))
    }

    /// The kernel's sides of the layer's mounts.
    fn kernels(&self) -> Vec<Arc<Kernel>> {
        let mut kernels = self.kernels.lock();
        kernels.retain(|kernel| kernel.strong_count() > 0);
        kernels.iter().filter_map(Weak::upgrade).collect()
    }

    /// Lets the kernel forget the layer's pages whenever the layer forgets what a pack has brought, because it was wrong.
    async fn follow(this: Weak<Self>, mut forgotten: watch::Receiver<()>) {
        while forgotten.changed().await.is_ok() {
            let Some(layer) = this.upgrade() else { return };
            let forget = move || {
                for kernel in layer.kernels() {
                    if let Err(error) = kernel.forget(inodes(&layer.tree)) {
                        tracing::error!(layer = %layer.digest, %error, "the kernel may keep wrong pages of a pack");
                    }
                }
            };
            // A panic in there was logged by its thread.
            let _ = tokio::task::spawn_blocking(forget).await;
        }
    }
}
