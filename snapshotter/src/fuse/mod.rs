//! FUSE adapter: the kernel's questions in, [`LayerFs`]'s answers out, or those of the one file that is a layer's EROFS image
//! ([`device`]). It decides nothing.
//!
//! Owns no state but the layer's handle. A read whose bytes are cached is answered on the event loop; any other read moves
//! to the engine's runtime with its reply, so no reader waits behind another one's download.
//!
//! `open` and `opendir` are answered with ENOSYS on purpose: the kernel then opens files and directories by itself and
//! keeps their pages and listings cached, which is right for a layer that never changes.

mod device;
pub(crate) mod kernel;
pub mod mount;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle;

use crate::fs::attr::{Attr, Kind};
use crate::fs::error::FsError;
use crate::fs::{InodeNo, LayerFs};
use crate::span::chain;
use crate::stats::Stats;

/// Requests that the kernel may have out for read-ahead; a slow span must not use up all of them.
const MAX_BACKGROUND: u16 = 512;
/// Largest single request, in bytes.
const MAX_REQUEST: u32 = 1 << 20;

/// How a layer is mounted.
#[derive(Clone, Copy, Debug)]
pub struct FuseOptions {
    /// How long the kernel keeps attributes.
    pub attr_timeout: Duration,
    /// How long the kernel keeps names.
    pub entry_timeout: Duration,
    /// How long the kernel keeps the absence of names.
    pub negative_timeout: Duration,
    /// Event loops of each mount. They never wait for the network.
    pub threads: usize,
    /// Bytes that the kernel reads ahead at most. Read-ahead that runs into a span which is not there downloads it, so
    /// one page is the default: 64 KiB move a fifth more of a Python image, and a start with prefetch takes a third
    /// longer at 100 Mbit/s.
    pub read_ahead: u32,
    /// Let the kernel answer for names and attributes by itself, from an EROFS image, where it can (Linux 6.12 or later).
    pub erofs: bool,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self {
            attr_timeout: Duration::from_secs(1),
            entry_timeout: Duration::from_secs(1),
            negative_timeout: Duration::from_secs(1),
            threads: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4),
            read_ahead: 4 << 10,
            erofs: true,
        }
    }
}

/// One mount's answers: those of a layer's file system, or of its image. `K` is kept alive as long as the kernel may ask.
#[derive(Debug)]
pub(crate) struct Adapter<A, K> {
    of: Arc<A>,
    options: FuseOptions,
    runtime: Handle,
    stats: Arc<Stats>,
    _keep: K,
}

impl<A, K> Adapter<A, K> {
    pub(crate) fn new(of: Arc<A>, options: FuseOptions, runtime: Handle, stats: Arc<Stats>, keep: K) -> Self {
        Self { of, options, runtime, stats, _keep: keep }
    }
}

impl<K: Send + Sync + 'static> Filesystem for Adapter<LayerFs, K> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config, &self.options);
        if self.of.has_acls() {
            // Without it the kernel decides by the mode alone. It costs a question for each file that a user other than the owner uses.
            let _ = config.add_capabilities(InitFlags::FUSE_POSIX_ACL);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.of.lookup(InodeNo(parent.0), name.as_bytes()) {
            Ok(attr) => reply.entry_with_ttls(
                &self.options.attr_timeout,
                &self.options.entry_timeout,
                &file_attr(&attr),
                Generation(0),
            ),
            // Inode 0 means "no such name, and remember it".
            Err(FsError::NotFound) if !self.options.negative_timeout.is_zero() => {
                let nothing =
                    FileAttr { ino: INodeNo(0), ..file_attr(&Attr::implied_directory(InodeNo(0), 0)) };
                reply.entry(&self.options.negative_timeout, &nothing, Generation(0));
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.of.attr(InodeNo(ino.0)) {
            Ok(attr) => reply.attr(&self.options.attr_timeout, &file_attr(&attr)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.of.readlink(InodeNo(ino.0)) {
            Ok(target) => reply.data(target),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let (fs, ino) = (Arc::clone(&self.of), InodeNo(ino.0));
        let cached = fs.read_cached(ino, offset, size);
        let rest = async move { fs.read(ino, offset, size).await };
        answer(cached, rest, (ino, offset), reply, &self.stats, &self.runtime);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.of.list(InodeNo(ino.0), offset).and_then(|names| {
            for entry in names {
                let kind = file_type(self.of.attr(entry.ino)?.kind);
                if reply.add(INodeNo(entry.ino.0), entry.next, kind, OsStr::from_bytes(entry.name)) {
                    break;
                }
            }
            Ok(())
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let ttl = self.options.entry_timeout.min(self.options.attr_timeout);
        let listed = self.of.list(InodeNo(ino.0), offset).and_then(|names| {
            for entry in names {
                let attr = file_attr(&self.of.attr(entry.ino)?);
                let name = OsStr::from_bytes(entry.name);
                if reply.add(INodeNo(entry.ino.0), entry.next, name, &ttl, &attr, Generation(0)) {
                    break;
                }
            }
            Ok(())
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (used, free, inodes) = self.of.totals();
        // Not full, though nothing can be written: monitors warn of full file systems.
        let (used, free) = (used.div_ceil(4096), free / 4096);
        reply.statfs(used.saturating_add(free), free, free, inodes, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.of.xattr(InodeNo(ino.0), name.as_bytes()) {
            Ok(value) => sized(value, size, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.of.xattr_names(InodeNo(ino.0)) {
            Ok(names) => sized(&names, size, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }
}

/// Asks the kernel for what helps.
fn negotiate(config: &mut KernelConfig, options: &FuseOptions) {
    let wanted = InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_NO_OPEN_SUPPORT
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
    // What an older kernel lacks costs speed, not correctness. A limit that is too high answers the highest.
    let _ = config.add_capabilities(wanted & config.capabilities());
    let _ = config.set_max_background(MAX_BACKGROUND);
    let _ = config.set_max_write(MAX_REQUEST);
    if let Err(most) = config.set_max_readahead(options.read_ahead.max(4096)) {
        let _ = config.set_max_readahead(most);
    }
}

/// Answers a read: at once with what is cached, or from the runtime when `rest` has brought what was not. `at`: inode and
/// offset, for the log.
fn answer(
    cached: Result<Option<Bytes>, FsError>,
    rest: impl Future<Output = Result<Bytes, FsError>> + Send + 'static,
    at: (InodeNo, u64),
    reply: ReplyData,
    stats: &Arc<Stats>,
    runtime: &Handle,
) {
    stats.reads.inc();
    match cached {
        Ok(Some(bytes)) => {
            stats.read_cache_hits.inc();
            stats.read_bytes.add(bytes.len() as u64);
            reply.data(&bytes);
        }
        Ok(None) => {
            stats.read_waits.inc();
            let stats = Arc::clone(stats);
            runtime.spawn(async move {
                match rest.await {
                    Ok(bytes) => {
                        stats.read_bytes.add(bytes.len() as u64);
                        reply.data(&bytes);
                    }
                    Err(error) => reply.error(failed(&stats, at, &error)),
                }
            });
        }
        Err(error) => reply.error(failed(stats, at, &error)),
    }
}

/// The rules of getxattr(2) for the size that the caller has room for.
fn sized(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno())
}

fn failed(stats: &Stats, (ino, offset): (InodeNo, u64), error: &FsError) -> Errno {
    stats.read_failures.inc();
    tracing::error!(ino = ino.0, offset, error = %chain(error), "read failed");
    errno(error)
}

const fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Regular => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
        Kind::Fifo => FileType::NamedPipe,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    let mtime = time(attr.mtime.secs, attr.mtime.nanos);
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks(),
        atime: mtime,
        mtime,
        ctime: mtime,
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev(),
        blksize: 4096,
        flags: 0,
    }
}

/// A time that the clock type cannot hold becomes 1970.
fn time(secs: i64, nanos: i32) -> SystemTime {
    let whole = if secs < 0 {
        UNIX_EPOCH.checked_sub(Duration::from_secs(secs.unsigned_abs()))
    } else {
        UNIX_EPOCH.checked_add(Duration::from_secs(secs.unsigned_abs()))
    };
    whole
        .and_then(|whole| whole.checked_add(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))))
        .unwrap_or(UNIX_EPOCH)
}
