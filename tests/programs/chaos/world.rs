//! What the daemon lives in: a registry, images of known bytes, containers on them. A [`World`] owns all of it but the
//! daemon's process, which others end and start.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use harness::daemon::Daemon;
use harness::image::{LayerSource, Published, TarWriter, publish};
use harness::pull::{chain_ids, mount_at, prepare_container, pull};
use harness::registry::TestRegistry;
use parking_lot::{Mutex, RwLock};
use rustix::mount::{UnmountFlags, unmount};
use soci_core::containerd::snapshots::{ListSnapshotsRequest, RemoveSnapshotRequest};
use soci_core::containerd::{SnapshotsClient, snapshots_client};
use soci_core::digest::Digest;
use tonic::{Code, Status};

use crate::disk::Disk;

/// A program without libraries, from Debian's busybox-static.
pub(crate) const BUSYBOX: &str = "/bin/busybox";

/// Numbers that look random, the same for the same seed (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// An image and all of its bytes.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) published: Published,
    diff_ids: Vec<Digest>,
    /// Paths and contents.
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

/// A container. Who drops it unmounts what is mounted for it alone.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) image: Arc<Image>,
    pub(crate) rootfs: PathBuf,
    /// The name of its snapshot; `None` of a container that has a runtime of its own.
    key: Option<String>,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) daemon: Mutex<Daemon>,
    pub(crate) registry: TestRegistry,
    pub(crate) socket: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) disk: Disk,
    /// Shared by containers that may lie on layers which the earlier build cannot serve. Only without one it comes back.
    pub(crate) of_successor: RwLock<()>,
    work: tempfile::TempDir,
}

impl World {
    pub(crate) fn new(config: &str) -> Self {
        let work = tempfile::tempdir().expect("a directory can be made");
        let registry = TestRegistry::start();
        let root = work.path().join("root");
        let disk = Disk::new(&root);
        let daemon = Daemon::start(work.path(), config);
        let socket = daemon.socket();
        let of_successor = RwLock::new(());
        Self { daemon: Mutex::new(daemon), registry, socket, root, disk, of_successor, work }
    }

    pub(crate) fn work(&self) -> &Path {
        self.work.path()
    }

    /// An image of `layers` layers with `files` files each, whose bytes are made of the name.
    pub(crate) fn image(&self, name: &str, layers: usize, files: usize, largest: u64) -> Arc<Image> {
        let mut dice = Dice::new(u64::from_le_bytes(
            Digest::of(name.as_bytes()).as_bytes()[..8].try_into().expect("8 bytes"),
        ));
        let mut all = Vec::new();
        let mut tars = Vec::new();
        for layer in 0..layers {
            let mut tar = TarWriter::default();
            if layer == 0 && Path::new(BUSYBOX).exists() {
                tar.entry("bin/", b'5', "", b"");
                tar.program("bin/busybox", &fs::read(BUSYBOX).expect("busybox can be read"));
            }
            for file in 0..files {
                let path = format!("data/l{layer}/f{file}");
                let length = 4096 + dice.below(largest);
                let mut content = Vec::with_capacity(length as usize);
                while (content.len() as u64) < length {
                    // Half of it can be compressed.
                    content.extend_from_slice(&dice.next().to_le_bytes());
                    content.extend_from_slice(&[b'x'; 8]);
                }
                tar.file(&path, &content);
                all.push((path, content));
            }
            tars.push(tar.finish());
        }
        let sources: Vec<_> = tars.iter().map(|tar| LayerSource::of_tar(tar)).collect();
        let published = publish(&self.registry, name, &sources, 256 << 10);
        let diff_ids = tars.iter().map(|tar| Digest::of(tar)).collect();
        Arc::new(Image { published, diff_ids, files: all })
    }

    /// Pulls an image and makes a container of it.
    ///
    /// # Errors
    /// What the daemon, or its absence, says.
    pub(crate) async fn run(&self, image: &Arc<Image>, key: &str) -> Result<Container, Status> {
        let unavailable = |error: &dyn std::fmt::Debug| Status::unavailable(format!("{error:?}"));
        let mut client = snapshots_client(&self.socket).await.map_err(|error| unavailable(&error))?;
        let mut left = None;
        let (_, top) = pull(&mut client, &image.published, &image.diff_ids, |at, _| left = Some(at)).await?;
        if let Some(layer) = left {
            return Err(Status::aborted(format!("layer {layer} was left to the runtime")));
        }
        let mounts = match prepare_container(&mut client, key, &top).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                let request = soci_core::containerd::snapshots::MountsRequest {
                    snapshotter: String::new(),
                    key: key.to_owned(),
                };
                client.mounts(request).await?.into_inner().mounts
            }
            prepared => prepared?,
        };
        let rootfs = self.work().join(format!("rootfs-{key}"));
        mount_at(&mounts, &rootfs);
        Ok(Container { image: Arc::clone(image), rootfs, key: Some(key.to_owned()) })
    }

    /// Tries to remove the image of a container that runs.
    ///
    /// # Errors
    /// When that is done.
    pub(crate) async fn remove_in_use(&self, container: &Container) -> Result<(), String> {
        let Ok(mut client) = snapshots_client(&self.socket).await else { return Ok(()) };
        for key in chain_ids(&container.image.diff_ids) {
            match client.remove(RemoveSnapshotRequest { snapshotter: String::new(), key }).await {
                // What has children stays, by containerd's contract.
                Err(_) => {}
                Ok(_) => return Err("a layer under a container was removed".to_owned()),
            }
        }
        Ok(())
    }

    /// Removes a container and its image.
    ///
    /// # Errors
    /// What the daemon, or its absence, says.
    pub(crate) async fn remove(&self, container: &Container) -> Result<(), Status> {
        container.unmount();
        let unavailable = |error: &dyn std::fmt::Debug| Status::unavailable(format!("{error:?}"));
        let mut client = snapshots_client(&self.socket).await.map_err(|error| unavailable(&error))?;
        let chain = chain_ids(&container.image.diff_ids);
        for key in container.key.clone().into_iter().chain(chain.into_iter().rev()) {
            remove_children(&mut client, &key).await?;
            remove_one(&mut client, key).await?;
        }
        Ok(())
    }
}

async fn remove_one(client: &mut SnapshotsClient, key: String) -> Result<(), Status> {
    match client.remove(RemoveSnapshotRequest { snapshotter: String::new(), key }).await {
        Err(status) if status.code() == Code::NotFound => Ok(()),
        removed => removed.map(drop),
    }
}

/// Removes what a Prepare has begun that a death of the daemon cut short, as containerd's collector does.
async fn remove_children(client: &mut SnapshotsClient, parent: &str) -> Result<(), Status> {
    let request = ListSnapshotsRequest { snapshotter: String::new(), filters: Vec::new() };
    let mut listed = client.list(request).await?.into_inner();
    let mut children = Vec::new();
    while let Some(part) = listed.message().await? {
        children.extend(part.info.into_iter().filter(|info| info.parent == parent).map(|info| info.name));
    }
    for child in children {
        remove_one(client, child).await?;
    }
    Ok(())
}

impl Container {
    /// One that somebody else mounts.
    pub(crate) const fn of_runtime(image: Arc<Image>, rootfs: PathBuf) -> Self {
        Self { image, rootfs, key: None }
    }

    /// Runs a program of the image, as `exec` does.
    pub(crate) fn exec(&self) -> Result<(), String> {
        if !self.rootfs.join("bin/busybox").exists() {
            return Ok(());
        }
        let output = Command::new("chroot").arg(&self.rootfs).args(["/bin/busybox", "true"]).output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            other => Err(format!("exec: {other:?}")),
        }
    }

    pub(crate) fn unmount(&self) {
        if self.key.is_some() {
            // It may be unmounted already.
            let _ = unmount(&self.rootfs, UnmountFlags::DETACH);
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.unmount();
    }
}
