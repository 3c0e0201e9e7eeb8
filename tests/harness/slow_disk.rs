//! A disk that is slower than who reads it: files served through FUSE, so many bytes a second.
//!
//! [`SlowDisk`] owns the mount and the thread that serves it. The kernel reads ahead as it does on any disk, so that a
//! reader runs into readahead that is still in flight, which a quick disk hardly ever shows. One request is answered at a
//! time.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen,
    Request,
};

/// Names and attributes do not change.
const FOREVER: Duration = Duration::from_hours(1);
const ROOT: INodeNo = INodeNo(1);

/// The mounted disk.
#[derive(Debug)]
pub struct SlowDisk {
    mountpoint: PathBuf,
    _session: BackgroundSession,
}

impl SlowDisk {
    /// Serves files of these names and sizes at `mountpoint`.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn mount(mountpoint: &Path, bytes_per_second: u64, files: &[(&'static str, u64)]) -> Self {
        let fs = Files { files: files.to_vec(), bytes_per_second };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::FSName("slow".into())];
        let session = fuser::spawn_mount(fs, mountpoint, &config).expect("mount the slow disk");
        Self { mountpoint: mountpoint.into(), _session: session }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }
}

#[derive(Debug)]
struct Files {
    files: Vec<(&'static str, u64)>,
    bytes_per_second: u64,
}

impl Files {
    fn attributes(&self, number: INodeNo) -> Option<FileAttr> {
        let index = usize::try_from(number.0).ok()?.checked_sub(2);
        let (size, kind, perm) = match index {
            None => (0, FileType::Directory, 0o755),
            Some(index) => (self.files.get(index)?.1, FileType::RegularFile, 0o755),
        };
        let time = UNIX_EPOCH;
        Some(FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let at = self.files.iter().position(|(file, _)| OsStr::new(file) == name);
        match at.and_then(|at| self.attributes(INodeNo(at as u64 + 2))) {
            Some(attributes) => reply.entry(&FOREVER, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(number) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let end = self.attributes(number).map_or(0, |attributes| attributes.size);
        let length = end.saturating_sub(offset).min(u64::from(size));
        sleep(Duration::from_micros(length * 1_000_000 / self.bytes_per_second));
        reply.data(&vec![7; length as usize]);
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let dots = [".", ".."].map(|name| (ROOT, FileType::Directory, name));
        let files = self.files.iter().enumerate();
        let files = files.map(|(at, (name, _))| (INodeNo(at as u64 + 2), FileType::RegularFile, *name));
        let all = dots.into_iter().chain(files).enumerate().skip(offset as usize);
        for (at, (number, kind, name)) in all {
            if reply.add(number, at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
