//! The ways in which a stack of layers becomes a tree, and what each shows.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use harness::image::{LayerSource, publish};
use harness::node::{TestMount, TestNode};
use harness::pull::mount_at;
use harness::registry::TestRegistry;
use harness::tree::{Tree, listing};
use harness::unpacker::Unpacker;
use harness::way::Way;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use snapshotter::layer::MountOptions;
use soci_core::digest::Digest;
use soci_core::prefetch::{ImageView, LayerFile, NotLocated, VisibleKind};
use soci_core::tar::{Entry, Parser, Sink, Special, TarError};
use soci_core::unpack::{ApplyOptions, LayerFormat, Whiteouts, unpack_layer};
use tokio::runtime::Runtime;

/// A file system in memory at a directory: making a file on a disk's takes a millisecond.
pub(super) fn in_memory(at: &Path) -> Merged {
    mount("tmpfs", at, "tmpfs", MountFlags::empty(), c"size=1g").unwrap();
    Merged(at.to_owned())
}

/// A mounted overlay, or what is mounted below one.
pub(super) struct Merged(pub(super) PathBuf);

impl Merged {
    /// Of layers, the lowest first, and an empty one below them: overlayfs wants two.
    pub(super) fn of(layers: &[PathBuf], work: &Path) -> Self {
        let (empty, target) = (work.join("empty"), work.join("merged"));
        fs::create_dir_all(&empty).unwrap();
        fs::create_dir_all(&target).unwrap();
        let lower: Vec<_> = layers.iter().rev().chain([&empty]).map(|dir| dir.to_str().unwrap()).collect();
        let options = CString::new(format!("lowerdir={}", lower.join(":"))).unwrap();
        mount("overlay", &target, "overlay", MountFlags::RDONLY, options.as_c_str()).unwrap();
        Self(target)
    }
}

impl Drop for Merged {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

/// Layers unpacked by us, the lowest first, each on those below.
pub(super) fn unpacked(tars: &[Vec<u8>], work: &Path) -> Vec<PathBuf> {
    let mut layers: Vec<PathBuf> = Vec::new();
    for (at, tar) in tars.iter().enumerate() {
        let to = work.join(format!("full{at}"));
        fs::create_dir_all(&to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
        let parents = layers.iter().rev().cloned().collect();
        let options = ApplyOptions { whiteouts: Whiteouts::default(), parents };
        unpack_layer(tar.as_slice(), LayerFormat::Tar, &to, options, Some(Digest::of(tar))).unwrap();
        layers.push(to);
    }
    layers
}

/// What our own unpack shows.
pub(super) fn full(tars: &[Vec<u8>], work: &Path) -> Tree {
    listing(&Merged::of(&unpacked(tars, work), work).0)
}

/// What lazy mounts show, each on those below; every other one of `on_unpacked` on unpacked ones.
pub(super) fn lazy(way: Way, tars: &[Vec<u8>], work: &Path, on_unpacked: bool) -> Tree {
    let registry = TestRegistry::start();
    let sources: Vec<_> = tars.iter().map(|tar| LayerSource::of_tar(tar)).collect();
    let image = publish(&registry, "merge", &sources, 256 << 10);
    let node = TestNode::new(&work.join("node"), |options| way.ask(options));
    let full = if on_unpacked { unpacked(tars, work) } else { Vec::new() };
    let mut mounts: Vec<TestMount> = Vec::new();
    for at in 0..tars.len() {
        let mountpoint = work.join(format!("layer{at}"));
        fs::create_dir_all(&mountpoint).unwrap();
        let below = (0..at).rev().map(|below| match full.get(below) {
            Some(full) => full.clone(),
            None => mounts[below].mountpoint().to_owned(),
        });
        let options = MountOptions { below: below.collect(), ..MountOptions::default() };
        let mounted = TestMount::new(&node.layer(&image, at), &mountpoint, &options).unwrap();
        way.check(&mountpoint);
        mounts.push(mounted);
    }
    let layers: Vec<_> = mounts.iter().map(|mount| mount.mountpoint().to_owned()).collect();
    listing(&Merged::of(&layers, work).0)
}

/// What containerd's unpack shows.
///
/// # Errors
/// What it says of a layer that it refuses.
pub(super) fn containerd(
    runtime: &Runtime,
    unpacker: &mut Unpacker,
    tars: &[Vec<u8>],
    work: &Path,
    name: &str,
) -> Result<Tree, String> {
    let mounts =
        runtime.block_on(unpacker.unpack(tars, name)).map_err(|status| status.message().to_owned())?;
    let target = work.join(format!("containerd-{name}"));
    mount_at(&mounts, &target);
    let mounted = Merged(target);
    Ok(listing(&mounted.0))
}

/// What the planner sees: kind, and digest of the content.
pub(super) type Plan = BTreeMap<PathBuf, (VisibleKind, Option<Digest>)>;

/// The planner's view of the same, as it is made of the tars.
pub(super) fn view(tars: &[Vec<u8>]) -> ImageView {
    struct Files(Vec<LayerFile>);
    impl Sink for Files {
        type Error = TarError;
        fn special(&mut self, entry: Entry, _: Special) -> Result<(), TarError> {
            self.entry(entry)
        }
        fn hole(&mut self, _: u64) -> Result<(), TarError> {
            Ok(())
        }
        fn entry(&mut self, entry: Entry) -> Result<(), TarError> {
            self.0.push(entry.into());
            Ok(())
        }
        fn data(&mut self, _: &[u8]) -> Result<(), TarError> {
            Ok(())
        }
    }
    let tables: Vec<_> = tars
        .iter()
        .map(|tar| {
            let mut files = Files(Vec::new());
            Parser::new().push(tar, &mut files).unwrap();
            files.0
        })
        .collect();
    ImageView::build(tables.iter().enumerate())
}

/// The bytes of a layer's tar that a path leads to, and the file's own path.
pub(super) fn resolved<'a>(
    view: &ImageView,
    tars: &'a [Vec<u8>],
    path: &[u8],
) -> Result<(Vec<u8>, &'a [u8]), NotLocated> {
    let (own, located) = view.find(path)?;
    let (start, end) = (located.content.start as usize, located.content.end as usize);
    Ok((own, &tars[located.layer][start..end]))
}

/// What the planner shows.
pub(super) fn planner(tars: &[Vec<u8>]) -> Plan {
    let view = view(tars);
    let content = |path: &[u8]| Digest::of(resolved(&view, tars, path).unwrap().1);
    let named = view.visible().map(|(path, _, kind)| {
        let content = (kind == VisibleKind::File).then(|| content(&path));
        (PathBuf::from(OsString::from_vec(path)), (kind, content))
    });
    named.collect()
}

/// A tree as the planner would see it.
pub(super) fn planned(tree: &Tree) -> Plan {
    let named = tree.iter().filter(|(path, _)| !path.as_os_str().is_empty()).map(|(path, item)| {
        let kind = match item.kind() {
            0o040_000 => VisibleKind::Dir,
            0o100_000 => VisibleKind::File,
            0o120_000 => VisibleKind::Symlink,
            _ => VisibleKind::Other,
        };
        (path.clone(), (kind, item.content()))
    });
    named.collect()
}
