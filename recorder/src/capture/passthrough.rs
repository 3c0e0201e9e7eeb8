//! A read-only FUSE file system over a directory tree that does not change, which tells of every read it serves.
//!
//! Owns the inode table and the open files. An inode stands for a file's identity on the backing file system (device
//! and inode number), so two names of one file are one inode here, too. Inodes are never forgotten: the tree is
//! read-only, and the table is bounded by it. The kernel caches everything for as long as it likes; therefore each
//! page is asked for once, which is exactly the first need that a trace is about.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use parking_lot::RwLock;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, Stat, fstatvfs, openat, readlinkat, statat};
use soci_core::trace::AccessKind;

use super::RawAccess;
use super::process_names::ProcessNames;

/// The tree does not change while it is served.
const FOREVER: Duration = Duration::from_hours(365 * 24);
/// Set by the kernel in the flags of an open for execution (`__FMODE_EXEC`).
const OPENED_FOR_EXEC: i32 = 0x20;
/// Attributes that belong to the overlay below and mean nothing to the one above.
const OVERLAY_NAMESPACES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];

#[derive(Debug)]
struct Node {
    path: Arc<[u8]>,
    attr: FileAttr,
}

#[derive(Debug, Default)]
struct Nodes {
    by_number: Vec<Arc<Node>>,
    by_identity: HashMap<(u64, u64), usize>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: Arc<[u8]>,
    kind: AccessKind,
}

/// The file system.
#[derive(Debug)]
pub(super) struct Passthrough {
    root: OwnedFd,
    nodes: RwLock<Nodes>,
    files: RwLock<HashMap<u64, Arc<OpenFile>>>,
    directories: RwLock<HashMap<u64, Arc<Listing>>>,
    next_handle: AtomicU64,
    names: ProcessNames,
    log: Sender<RawAccess>,
}

/// A directory as it was when it was opened: number, kind, name.
type Listing = Vec<(INodeNo, FileType, Vec<u8>)>;

impl Passthrough {
    /// Serves the tree below `root`; reads are told to `log`.
    pub(super) fn new(root: OwnedFd, log: Sender<RawAccess>) -> rustix::io::Result<Self> {
        let stat = statat(&root, "", AtFlags::EMPTY_PATH)?;
        let fs = Self {
            root,
            nodes: RwLock::default(),
            files: RwLock::default(),
            directories: RwLock::default(),
            next_handle: AtomicU64::new(1),
            names: ProcessNames::default(),
            log,
        };
        fs.intern(b"", &stat); // the first number is 1, FUSE's root
        Ok(fs)
    }

    fn node(&self, number: INodeNo) -> Result<Arc<Node>, Errno> {
        let index = usize::try_from(number.0).ok().and_then(|number| number.checked_sub(1));
        index.and_then(|index| self.nodes.read().by_number.get(index).cloned()).ok_or(Errno::ENOENT)
    }

    /// The node of a file, by its identity; the first name it is met by is the one it keeps.
    fn intern(&self, path: &[u8], stat: &Stat) -> Arc<Node> {
        let identity = (stat.st_dev, stat.st_ino);
        let known =
            |nodes: &Nodes| nodes.by_identity.get(&identity).map(|&at| Arc::clone(&nodes.by_number[at]));
        if let Some(node) = known(&self.nodes.read()) {
            return node;
        }
        let mut nodes = self.nodes.write();
        if let Some(node) = known(&nodes) {
            return node;
        }
        let at = nodes.by_number.len();
        let node = Arc::new(Node { path: Arc::from(path), attr: attributes(INodeNo(at as u64 + 1), stat) });
        nodes.by_number.push(Arc::clone(&node));
        nodes.by_identity.insert(identity, at);
        node
    }

    fn child(&self, parent: &Node, name: &[u8]) -> Result<Arc<Node>, Errno> {
        let path = join(&parent.path, name);
        let stat = statat(&self.root, path.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(errno)?;
        Ok(self.intern(&path, &stat))
    }

    fn open_backing(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        openat(&self.root, path, flags, Mode::empty()).map_err(errno)
    }

    fn list(&self, number: INodeNo) -> Result<Listing, Errno> {
        let node = self.node(number)?;
        let dir = self.open_backing(&node.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut listing =
            vec![(number, FileType::Directory, b".".to_vec()), (number, FileType::Directory, b"..".to_vec())];
        for entry in Dir::new(dir).map_err(errno)? {
            let entry = entry.map_err(errno)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                match self.child(&node, name) {
                    Ok(child) => listing.push((child.attr.ino, child.attr.kind, name.to_vec())),
                    // overlayfs lists a whiteout that hides nothing, and then has no such file.
                    Err(error) if error.code() == Errno::ENOENT.code() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(listing)
    }

    /// Reads an extended attribute, or the list of their names when `name` is `None`.
    fn xattr(&self, number: INodeNo, name: Option<&OsStr>) -> Result<Vec<u8>, Errno> {
        use std::os::fd::AsRawFd;
        let node = self.node(number)?;
        let mut path = format!("/proc/self/fd/{}/", self.root.as_raw_fd()).into_bytes();
        path.extend_from_slice(&node.path);
        let mut value = vec![0; 65536]; // XATTR_SIZE_MAX, XATTR_LIST_MAX
        let length = match name {
            Some(name) => rustix::fs::lgetxattr(path.as_slice(), name, &mut value[..]),
            None => rustix::fs::llistxattr(path.as_slice(), &mut value[..]),
        };
        value.truncate(length.map_err(errno)?);
        Ok(value)
    }

    fn read_file(
        &self,
        request: &Request,
        handle: FileHandle,
        offset: u64,
        size: u32,
    ) -> Result<Vec<u8>, Errno> {
        let at = Instant::now();
        let open = self.files.read().get(&handle.0).cloned().ok_or(Errno::EBADF)?;
        let mut bytes = vec![0; size as usize];
        let mut length = 0;
        while length < bytes.len() {
            match open.file.read_at(&mut bytes[length..], offset + length as u64) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Errno::from(error)),
            }
        }
        bytes.truncate(length);
        if length > 0 {
            let access = RawAccess {
                at,
                kind: open.kind,
                path: Arc::clone(&open.path),
                offset,
                len: length as u64,
                process: self.names.get(request.pid(), at),
                wait: Some(at.elapsed()),
            };
            let _ = self.log.send(access); // nobody listens any more once the recording is over
        }
        Ok(bytes)
    }
}

impl Filesystem for Passthrough {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Less than a page: the kernel rounds it down to no readahead at all, so it asks for wanted pages only. fuser
        // does not take 0.
        let _ = config.set_max_readahead(1);
        // With ACLs the kernel decides as it does on the layers themselves.
        for flag in
            [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_CACHE_SYMLINKS, InitFlags::FUSE_POSIX_ACL]
        {
            let _ = config.add_capabilities(flag); // older kernels do without
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.node(parent).and_then(|parent| self.child(&parent, name.as_bytes())) {
            Ok(node) => reply.entry(&FOREVER, &node.attr, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(number) {
            Ok(node) => reply.attr(&FOREVER, &node.attr),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        let target =
            self.node(number).and_then(|node| readlinkat(&self.root, &*node.path, Vec::new()).map_err(errno));
        match target {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let kind = if flags.0 & OPENED_FOR_EXEC == 0 { AccessKind::Read } else { AccessKind::Exec };
        let opened = self.node(number).and_then(|node| {
            let file = File::from(self.open_backing(&node.path, OFlags::RDONLY)?);
            Ok(OpenFile { file, path: Arc::clone(&node.path), kind })
        });
        match opened {
            Ok(open) => {
                if kind == AccessKind::Exec {
                    self.names.executes(request.pid(), Instant::now());
                }
                let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
                self.files.write().insert(handle, Arc::new(open));
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read_file(request, handle, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.files.write().remove(&handle.0);
        reply.ok();
    }

    fn opendir(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.list(number) {
            Ok(listing) => {
                let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
                self.directories.write().insert(handle, Arc::new(listing));
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(listing) = self.directories.read().get(&handle.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (number, kind, name)) in listing.iter().enumerate().skip(from) {
            if reply.add(*number, at as u64 + 1, *kind, OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.directories.write().remove(&handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        match fstatvfs(&self.root) {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                s.f_bsize as u32,
                s.f_namemax as u32,
                s.f_frsize as u32,
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn ioctl(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn getxattr(&self, _request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if OVERLAY_NAMESPACES.iter().any(|namespace| name.as_bytes().starts_with(namespace)) {
            return reply.error(Errno::NO_XATTR);
        }
        answer_xattr(self.xattr(number, Some(name)), size, reply);
    }

    fn listxattr(&self, _request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        answer_xattr(self.xattr(number, None), size, reply);
    }
}

fn answer_xattr(value: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Err(error) => reply.error(error),
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}

fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_i32(errno.raw_os_error())
}

fn attributes(number: INodeNo, stat: &Stat) -> FileAttr {
    let kind = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        _ => FileType::RegularFile,
    };
    FileAttr {
        ino: number,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind,
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: stat.st_nlink as u32,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: stat.st_rdev as u32,
        blksize: 4096,
        flags: 0,
    }
}

/// A time of the backing file system; its seconds may lie before 1970.
fn time(secs: i64, nanos: u64) -> SystemTime {
    let whole = Duration::from_secs(secs.unsigned_abs());
    let base = if secs < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(nanos))).unwrap_or(UNIX_EPOCH)
}
