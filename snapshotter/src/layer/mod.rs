//! One layer that is ready: zTOC, tree, spans. It can be mounted before its bytes are here.
//!
//! A [`Layer`] owns nothing that outlives it but its mounts, which the kernel's use keeps alive. [`services::Services`] owns what all layers use, and
//! the table of those that are alive. What must always hold: two images that share a layer and its zTOC share its cache, its fetches
//! and its tree.

mod error;
mod layout;
mod room;
pub(crate) mod services;
pub(crate) mod tables;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use parking_lot::Mutex;
use soci_core::digest::Digest;
use soci_core::tree::LayerTree;
use tokio::sync::watch;

use crate::erofs::Image;
use crate::erofs::device::Device;
use crate::fs::xattr::OpaqueMark;
use crate::fs::{Inherited, LayerFs, inodes};
use crate::mounts::kernel::Kernel;
use crate::mounts::{MountError, Mounted, Mounts};
use crate::span::{Interest, SpanManager, chain};
use crate::telemetry::stats::Stats;
use layout::{Form, LAYOUTS, Layout};

pub use error::LayerError;

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

    pub(crate) const fn stats(&self) -> &Arc<Stats> {
        &self.stats
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
        let begun = Instant::now();
        let mounted = self.mount_somehow(mountpoint, options);
        self.stats.mounts.observe(begun.elapsed());
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
                tracing::warn!(layer = %self.digest, error = %chain(&error), "this layer cannot be mounted as an image: FUSE answers for its names, too");
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
    pub(crate) fn kernels(&self) -> Vec<Arc<Kernel>> {
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
