//! FUSE adapter for an EROFS image: a file system with one file, which the kernel mounts as a file system of its own.

use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

use fuser::{
    Errno, FileHandle, Filesystem, Generation, INodeNo, KernelConfig, LockOwner, OpenFlags, ReplyAttr,
    ReplyData, ReplyEntry, ReplyOpen, Request,
};

use super::{Adapter, answer, file_attr, negotiate};
use crate::erofs::device::Device;
use crate::fs::InodeNo;
use crate::fs::attr::{Attr, Kind};

/// Name of the file.
pub(super) const NAME: &str = "layer.erofs";
/// Its inode.
pub(super) const FILE: INodeNo = INodeNo(2);

impl<K> Adapter<Device, K> {
    fn attr(&self, ino: INodeNo) -> Option<Attr> {
        let directory = Attr::implied_directory(InodeNo(ino.0), 2);
        match ino {
            INodeNo(root) if root == InodeNo::ROOT.0 => Some(directory),
            FILE => {
                let size = self.of.image().size();
                Some(Attr { kind: Kind::Regular, perm: 0o400, nlink: 1, size, ..directory })
            }
            _ => None,
        }
    }
}

impl<K: Send + Sync + 'static> Filesystem for Adapter<Device, K> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config, &self.options);
        Ok(())
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attr(FILE).filter(|_| name == NAME) {
            Some(attr) => {
                let (attrs, names) = (&self.options.attr_timeout, &self.options.entry_timeout);
                reply.entry_with_ttls(attrs, names, &file_attr(&attr), Generation(0));
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&self.options.attr_timeout, &file_attr(&attr)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
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
        let device = Arc::clone(&self.of);
        let cached = device.read_cached(offset, size);
        let rest = async move { device.read(offset, size).await };
        answer(cached, rest, (InodeNo(ino.0), offset), reply, &self.stats, &self.runtime);
    }
}
