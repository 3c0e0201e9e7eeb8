//! What the kernel asks of a layer, answered by [`LayerFs`], or by the one file that is the layer's EROFS image. It decides
//! nothing, and owns nothing but the layer's handle.
//!
//! A read whose bytes are cached is answered at once; any other moves to the engine's runtime with its reply, so no reader
//! waits behind another one's download.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::runtime::Handle;

use crate::erofs::device::Device;
use crate::fs::attr::{Attr, Kind};
use crate::fs::error::FsError;
use crate::fs::places::Places;
use crate::fs::{InodeNo, LayerFs};
use crate::hidden::{self, Name, NodeId, Reply, Totals, Tree};
use crate::span::chain;
use crate::telemetry::stats::Stats;

/// A layer's answers. `K` is kept alive as long as the kernel may ask.
#[derive(Debug)]
pub(super) struct Served<A, K> {
    pub(super) of: Arc<A>,
    pub(super) runtime: Handle,
    pub(super) stats: Arc<Stats>,
    pub(super) _keep: K,
}

/// What is read, for the counters and for the log.
pub(super) trait Content: Send + Sync + 'static {
    /// The layer.
    fn layer(&self) -> &LayerFs;

    /// The file that an object of the connection has at `offset`, and the place in the file.
    fn file_at(&self, index: u32, offset: u64) -> Option<(InodeNo, u64)>;
}

impl Content for LayerFs {
    fn layer(&self) -> &LayerFs {
        self
    }

    fn file_at(&self, index: u32, offset: u64) -> Option<(InodeNo, u64)> {
        Some((number(index), offset))
    }
}

impl Content for Device {
    fn layer(&self) -> &LayerFs {
        self.fs()
    }

    fn file_at(&self, _index: u32, offset: u64) -> Option<(InodeNo, u64)> {
        Device::file_at(self, offset)
    }
}

impl<K: Send + Sync + 'static> Tree for Served<LayerFs, K> {
    fn attr(&self, index: u32) -> Result<hidden::Attr, Errno> {
        attr(&self.of.attr(number(index)).map_err(errno)?)
    }

    fn lookup(&self, directory: u32, name: &[u8]) -> Result<hidden::Attr, Errno> {
        attr(&self.of.lookup(number(directory), name).map_err(errno)?)
    }

    fn readlink(&self, index: u32) -> Result<Cow<'_, [u8]>, Errno> {
        self.of.readlink(number(index)).map(Cow::Borrowed).map_err(errno)
    }

    fn list(&self, directory: u32, from: u64, add: &mut dyn FnMut(Name<'_>) -> bool) -> Result<(), Errno> {
        for entry in self.of.list(number(directory), from).map_err(errno)? {
            let attr = attr(&self.of.attr(entry.ino).map_err(errno)?)?;
            if !add(Name { name: entry.name, attr, next: entry.next }) {
                break;
            }
        }
        Ok(())
    }

    fn xattr(&self, index: u32, name: &[u8]) -> Result<Cow<'_, [u8]>, Errno> {
        self.of.xattr(number(index), name).map(Cow::Borrowed).map_err(errno)
    }

    fn xattr_names(&self, index: u32) -> Result<Cow<'_, [u8]>, Errno> {
        self.of.xattr_names(number(index)).map(Cow::Owned).map_err(errno)
    }

    fn totals(&self) -> Totals {
        let (used, free, inodes) = self.of.totals();
        Totals { used, free, inodes }
    }

    fn read(&self, index: u32, offset: u64, size: u32, reply: Reply) {
        let (begun, fs, ino) = (self.begins(), Arc::clone(&self.of), number(index));
        let cached = fs.read_cached(ino, offset, size);
        self.answer(cached, async move { fs.read(ino, offset, size).await }, (index, offset, begun), reply);
    }
}

impl<K: Send + Sync + 'static> Tree for Served<Device, K> {
    fn attr(&self, index: u32) -> Result<hidden::Attr, Errno> {
        if index == NodeId::TOP {
            Ok(hidden::Attr::file(index, self.of.image().size()))
        } else {
            Err(Errno::NOENT)
        }
    }

    fn lookup(&self, _directory: u32, _name: &[u8]) -> Result<hidden::Attr, Errno> {
        Err(Errno::NOTDIR)
    }

    fn readlink(&self, _index: u32) -> Result<Cow<'_, [u8]>, Errno> {
        Err(Errno::INVAL)
    }

    fn list(&self, _directory: u32, _from: u64, _add: &mut dyn FnMut(Name<'_>) -> bool) -> Result<(), Errno> {
        Err(Errno::NOTDIR)
    }

    fn xattr(&self, _index: u32, _name: &[u8]) -> Result<Cow<'_, [u8]>, Errno> {
        Err(Errno::NODATA)
    }

    fn xattr_names(&self, _index: u32) -> Result<Cow<'_, [u8]>, Errno> {
        Ok(Cow::Borrowed(&[]))
    }

    fn totals(&self) -> Totals {
        Totals { used: self.of.image().size(), free: 0, inodes: 1 }
    }

    fn read(&self, index: u32, offset: u64, size: u32, reply: Reply) {
        // Metadata is always here, and no read of a file.
        if let Some(metadata) = self.of.metadata(offset, size) {
            return reply.data(metadata);
        }
        let (begun, device) = (self.begins(), Arc::clone(&self.of));
        let cached = device.read_cached(offset, size);
        self.answer(cached, async move { device.read(offset, size).await }, (index, offset, begun), reply);
    }
}

impl<A: Content, K> Served<A, K> {
    /// A read has come; when.
    fn begins(&self) -> u64 {
        self.stats.reads.inc();
        self.of.layer().spans().tally().read_begins()
    }

    /// Answers a read: at once with what is cached, or from the runtime when `rest` has brought what was not. `at`: object
    /// and offset, for the log, and when the read has come.
    fn answer(
        &self,
        cached: Result<Option<Bytes>, FsError>,
        rest: impl Future<Output = Result<Bytes, FsError>> + Send + 'static,
        (index, offset, begun): (u32, u64, u64),
        reply: Reply,
    ) {
        let (stats, tally, at) = (&self.stats, self.of.layer().spans().tally(), (index, offset));
        match cached {
            Ok(Some(bytes)) => {
                stats.read_cache_hits.inc();
                stats.read_bytes.add(bytes.len() as u64);
                tally.answered(begun, bytes.len() as u64);
                give(reply, bytes);
            }
            Ok(None) => {
                stats.read_waits.inc();
                let (stats, of) = (Arc::clone(stats), Arc::clone(&self.of));
                self.runtime.spawn(async move {
                    match rest.await {
                        Ok(bytes) => {
                            stats.read_bytes.add(bytes.len() as u64);
                            of.layer().spans().tally().answered(begun, bytes.len() as u64);
                            give(reply, bytes);
                        }
                        Err(error) => reply.error(failed(&stats, &*of, at, error)),
                    }
                });
            }
            Err(error) => reply.error(failed(stats, &*self.of, at, error)),
        }
    }
}

/// Bytes of our own are given as they are. All others are copied first: a mapping may have pages that are not resident.
fn give(reply: Reply, bytes: Bytes) {
    match bytes.try_into_mut() {
        Ok(own) => reply.fresh(own.into()),
        Err(shared) => reply.data(&shared),
    }
}

const fn number(index: u32) -> InodeNo {
    InodeNo(index as u64)
}

fn errno(error: FsError) -> Errno {
    Errno::from_raw_os_error(error.errno())
}

fn failed(stats: &Stats, of: &impl Content, (index, offset): (u32, u64), error: FsError) -> Errno {
    stats.read_failures.inc();
    let (fs, spans) = (of.layer(), of.layer().spans());
    spans.tally().read_failures.inc();
    let (ino, offset) = of.file_at(index, offset).unwrap_or((number(index), offset));
    let path = Places::path(fs, ino).unwrap_or_default();
    let (image, layer, path) = (spans.tally().image(), spans.cache().layer(), String::from_utf8_lossy(&path));
    tracing::error!(image = &*image, %layer, path = &*path, offset, error = %chain(&error), "read failed");
    errno(error)
}

fn attr(attr: &Attr) -> Result<hidden::Attr, Errno> {
    let kind = match attr.kind {
        Kind::Regular => libc::S_IFREG,
        Kind::Directory => libc::S_IFDIR,
        Kind::Symlink => libc::S_IFLNK,
        Kind::Char => libc::S_IFCHR,
        Kind::Block => libc::S_IFBLK,
        Kind::Fifo => libc::S_IFIFO,
    };
    Ok(hidden::Attr {
        index: u32::try_from(attr.ino.0).map_err(|_| Errno::OVERFLOW)?,
        mode: kind | u32::from(attr.perm),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev(),
        size: attr.size,
        mtime: (attr.mtime.secs, u32::try_from(attr.mtime.nanos).unwrap_or(0)),
    })
}
