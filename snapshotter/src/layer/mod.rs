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
mod disk;
mod failure;
mod found;
mod image;
mod layout;
mod node;
mod opening;
mod pack;
mod pack_options;
mod resolver;
mod services;
mod tables;
mod warm;

use std::path::{Path, PathBuf};
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
use crate::mounts::kernel::Kernel;
use crate::mounts::{MountError, Mounted, Mounts};
use crate::span::{Interest, SpanManager, chain};
use crate::stats::Stats;
use layout::{Form, LAYOUTS, Layout};

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
    /// The layer would be too long once it is plain.
    #[error("the index gives the layer {length} plain bytes; the limit `plain-bytes` is {limit}")]
    LongLayer {
        /// Plain bytes.
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
    /// Whether the next attempt will say the same: it is what the bytes say that are named by digest, or the configuration.
    pub fn is_for_good(&self) -> bool {
        match self {
            Self::Manifest { .. }
            | Self::Config(_)
            | Self::NotAnIndex { .. }
            | Self::Annotation { .. }
            | Self::Ztoc { .. }
            | Self::Size { .. }
            | Self::LongSpan { .. }
            | Self::LongLayer { .. }
            | Self::NoTable
            | Self::Artifact { .. }
            | Self::Entries { .. }
            | Self::TooLarge { .. }
            | Self::NoParts(_) => true,
            Self::Shared(error) => error.is_for_good(),
            Self::Registry { .. } | Self::Store(_) | Self::Cache(_) | Self::CutOff => false,
        }
    }

    /// Whether something that it needs is neither here nor at the registry any more, or is damaged here.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Registry { source, .. } => matches!(**source, RegistryError::NotFound { .. }),
            Self::Store(_) => true,
            Self::Shared(error) => error.is_lost(),
            _ => false,
        }
    }

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
    mounts: Arc<Mounts>,
    /// That of a mount with the default options, of a layer that implies no directories.
    image: OnceLock<Option<Arc<Device>>>,
    stats: Arc<Stats>,
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

/// What distinguishes what a mount shows from what others of the same layer show.
#[derive(Clone, Debug, Default)]
struct View {
    opaque: OpaqueMark,
    inherited: Arc<Inherited>,
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
        self.fs_of(View::default())
    }

    fn fs_of(&self, view: View) -> LayerFs {
        LayerFs::new(Arc::clone(&self.tree), Arc::clone(&self.spans), view.opaque, view.inherited)
    }

    /// Mounts the layer read-only on an existing directory: as an image, or else as a tree. Blocking, for the time of a few
    /// requests of the kernel; needs CAP_SYS_ADMIN. The kernel's use of the layer keeps it alive, until [`Mounts::unmount`].
    ///
    /// # Errors
    /// When it cannot be mounted in either way.
    pub fn mount(self: &Arc<Self>, mountpoint: &Path, options: &MountOptions) -> Result<Mounted, MountError> {
        let mounted = self.mount_somehow(mountpoint, options);
        match &mounted {
            Ok(mounted) => self.is_mounted(mounted),
            Err(_) => self.stats.fuse_mount_failures.inc(),
        }
        mounted
    }

    /// Serves the layer again that an earlier process has mounted under this name. Blocking, for milliseconds.
    ///
    /// # Errors
    /// [`MountError::Different`] when this build cannot answer as the one did that has mounted it.
    pub fn resume(
        self: &Arc<Self>,
        mountpoint: &Path,
        options: &MountOptions,
        name: &str,
    ) -> Result<Mounted, MountError> {
        let view = self.view(options)?;
        let different = || MountError::Different(mountpoint.to_owned());
        let (form, layout) = self.form_of(name, &view).ok_or_else(different)?;
        let mounted = match form {
            Form::Tree => {
                self.mounts.attach_tree(name, Arc::new(self.fs_of(view)), Arc::clone(self), mountpoint)?
            }
            Form::Image => {
                let image = self.image(view, layout).ok_or_else(different)?;
                let mounted = self.mounts.attach_image(name, &image, Arc::clone(self), mountpoint)?;
                self.stats.erofs_mounts.inc();
                mounted
            }
        };
        self.is_mounted(&mounted);
        Ok(mounted)
    }

    /// The mounts of this process.
    pub const fn mounts(&self) -> &Arc<Mounts> {
        &self.mounts
    }

    fn is_mounted(&self, mounted: &Mounted) {
        self.stats.fuse_mounts.inc();
        self.kernels.lock().push(Arc::downgrade(mounted.kernel()));
        self.mounted.send_replace(());
    }

    /// As an image, or else as a tree. When the kernel cannot have images at all, they are tried no more.
    fn mount_somehow(
        self: &Arc<Self>,
        mountpoint: &Path,
        options: &MountOptions,
    ) -> Result<Mounted, MountError> {
        let view = self.view(options)?;
        let mut refused = None;
        if self.mounts.wants_images() {
            let name = self.name(Form::Image, Layout::current(), &view);
            if let Some(image) = self.image(view.clone(), Layout::current()) {
                match self.mounts.mount_image(&name, &image, Arc::clone(self), mountpoint) {
                    Ok(mounted) => {
                        self.stats.erofs_mounts.inc();
                        return Ok(mounted);
                    }
                    Err(error) => refused = Some(error),
                }
            }
        }
        let name = self.name(Form::Tree, Layout::current(), &view);
        let fs = Arc::new(self.fs_of(view));
        let mounted = self.mounts.mount_tree(&name, fs, Arc::clone(self), mountpoint)?;
        if let Some(error) = refused {
            if error.is_of_every_image(self.stats.erofs_mounts.get() > 0) {
                self.mounts.give_up_images();
                tracing::info!(error = %chain(&error), "layers cannot be mounted as images here: FUSE answers for names, too");
            } else {
                tracing::warn!(error = %chain(&error), "this layer cannot be mounted as an image: FUSE answers for its names, too");
            }
        }
        Ok(mounted)
    }

    fn view(&self, options: &MountOptions) -> Result<View, MountError> {
        let inherited = Inherited::read(&self.tree, self.spans.ztoc().files(), &options.below);
        Ok(View { opaque: options.opaque, inherited: Arc::new(inherited.map_err(MountError::Below)?) })
    }

    /// The layer's name on the connection: all that the kernel's view of it depends on.
    fn name(&self, form: Form, layout: &Layout, view: &View) -> String {
        let (ztoc, inherited) = (self.spans.ztoc().digest(), view.inherited.digest());
        layout.name(form, &format!("{} {ztoc} {:?} {inherited}", self.digest, view.opaque))
    }

    /// What a name on the connection stands for, if this build can answer as that is to be answered.
    fn form_of(&self, name: &str, view: &View) -> Option<(Form, &'static Layout)> {
        let all = LAYOUTS.iter().flat_map(|layout| [(Form::Tree, layout), (Form::Image, layout)]);
        all.into_iter().find(|(form, layout)| self.name(*form, layout, view) == name)
    }

    /// The image of a view, if it can be made. Blocking, for milliseconds.
    fn image(&self, view: View, layout: &'static Layout) -> Option<Arc<Device>> {
        if view.opaque == OpaqueMark::default() && view.inherited.is_empty() && layout.is_current() {
            return self.image.get_or_init(|| self.image_of(self.fs(), layout)).clone();
        }
        self.image_of(self.fs_of(view), layout)
    }

    /// Makes the image ahead of the mounts, if nearly all of them show the same.
    fn image_ahead(&self) {
        if self.mounts.wants_images() && !self.implies_directories() {
            self.image.get_or_init(|| self.image_of(self.fs(), Layout::current()));
        }
    }

    fn image_of(&self, fs: LayerFs, layout: &Layout) -> Option<Arc<Device>> {
        let image = Image::of(&fs, layout.gap).inspect_err(|error| {
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
