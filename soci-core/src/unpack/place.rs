//! Places below the destination directory: every path of the archive is resolved here, by `openat2` with the
//! destination as root, so that neither `..` nor a symbolic link of the archive leads out of it.
//!
//! Owns the descriptor of the destination and of the parent directory used last. The cached parent is dropped whenever
//! a name is removed or a link is made, since either may change where a path leads.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mkdirat, openat, openat2,
    readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

use super::{ApplyOptions, UnpackError, Whiteouts, metadata};

/// As many symbolic links as the kernel follows in one path.
const MAX_HOPS: u32 = 40;

/// A name in an opened directory below the destination.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) dir: &'a OwnedFd,
    pub(super) base: &'a [u8],
}

impl Place<'_> {
    /// The kind and attributes of what is there, links not followed.
    pub(super) fn stat(&self) -> Result<Option<Stat>, Errno> {
        match statat(self.dir, self.base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A path for calls that know no descriptors. The last component is not followed by the `l…xattr` calls.
    pub(super) fn proc_path(&self) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        let dir = PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd()));
        // Also for ".": calls that do not follow links would meet the link in /proc instead of the directory.
        dir.join(std::ffi::OsStr::from_bytes(self.base))
    }
}

/// The destination directory.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    parents: Vec<OwnedFd>,
    whiteouts: Whiteouts,
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Directories nobody listed and nobody below described, by inode.
    implied: BTreeMap<u64, Vec<u8>>,
}

impl Root {
    pub(super) fn open(dest: &Path, options: &ApplyOptions) -> io::Result<Self> {
        let open = |path: &Path| {
            openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        };
        let fd = open(dest)?;
        let implied = BTreeMap::from([(fstat(&fd)?.st_ino, Vec::new())]);
        Ok(Self {
            fd,
            parents: options.parents.iter().map(|path| open(path)).collect::<Result<_, _>>()?,
            whiteouts: options.whiteouts,
            last: None,
            implied,
        })
    }

    /// The archive lists the directory with this inode: its attributes are the archive's.
    pub(super) fn listed(&mut self, inode: u64) {
        self.implied.remove(&inode);
    }

    /// The directories that the archive did not list. With parents they have been described; without, nobody has yet.
    pub(super) fn implied(&self) -> Vec<Vec<u8>> {
        if self.parents.is_empty() { self.implied.values().cloned().collect() } else { Vec::new() }
    }

    /// Forget the parent used last: the tree changed its shape.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// The directory `path` (normalised, no leading slash), made with all its parents where it is missing.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<&OwnedFd, UnpackError> {
        if !matches!(&self.last, Some((known, _)) if known == path) {
            let fd = match self.resolve(path) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR) => self.make(path, 0)?,
                Err(error) => return Err(UnpackError::io("open directory", path, error)),
            };
            self.last = Some((path.to_vec(), fd));
        }
        Ok(&self.last.as_ref().expect("set just above").1)
    }

    fn resolve(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        resolve_in(&self.fd, path)
    }

    /// Makes the missing directories of `path`, one component after the other.
    fn make(&mut self, path: &[u8], hops: u32) -> Result<OwnedFd, UnpackError> {
        if hops > MAX_HOPS {
            return Err(UnpackError::Name {
                path: String::from_utf8_lossy(path).into_owned(),
                reason: "too many symbolic links",
            });
        }
        let mut at = self.resolve(b".").map_err(|error| UnpackError::io("open directory", path, error))?;
        let mut end = 0;
        while end < path.len() {
            let start = if end == 0 { 0 } else { end + 1 };
            end =
                path[start..].iter().position(|&byte| byte == b'/').map_or(path.len(), |slash| start + slash);
            let (prefix, base) = (&path[..end], &path[start..end]);
            at = match self.resolve(prefix) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_one(&at, prefix, base, hops)?,
                Err(error) => return Err(UnpackError::io("open directory", prefix, error)),
            };
        }
        Ok(at)
    }

    fn make_one(
        &mut self,
        at: &OwnedFd,
        prefix: &[u8],
        base: &[u8],
        hops: u32,
    ) -> Result<OwnedFd, UnpackError> {
        let place = Place { dir: at, base };
        let fail = |action| move |error: Errno| UnpackError::io(action, prefix, error);
        match place.stat().map_err(fail("stat"))? {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                // A link whose target this layer does not hold: the target is what has to be made.
                let target = readlinkat(at, base, Vec::new()).map_err(fail("read link"))?.into_bytes();
                let mut whole = if target.first() == Some(&b'/') {
                    Vec::new()
                } else {
                    prefix[..prefix.len() - base.len()].to_vec()
                };
                whole.extend_from_slice(&target);
                return self.make(&normalise(&whole), hops + 1);
            }
            Some(stat) if metadata::is_whiteout(&stat) => {
                unlinkat(at, base, AtFlags::empty()).map_err(fail("replace whiteout"))?;
                mkdirat(at, base, Mode::from(0o755)).map_err(fail("make directory"))?;
                metadata::set_opaque(&place, self.whiteouts).map_err(fail("mark directory opaque"))?;
            }
            Some(_) => return Err(fail("make directory")(Errno::NOTDIR)),
            None => mkdirat(at, base, Mode::from(0o755)).map_err(fail("make directory"))?,
        }
        self.inherit(&place, prefix).map_err(fail("copy attributes of the directory below"))?;
        if let Some(made) = place.stat().map_err(fail("stat"))? {
            self.implied.insert(made.st_ino, prefix.to_vec());
        }
        self.resolve(prefix).map_err(fail("open directory"))
    }

    /// Gives a directory that the archive only implies the attributes it has in the nearest layer below.
    fn inherit(&self, place: &Place<'_>, path: &[u8]) -> Result<(), Errno> {
        for parent in &self.parents {
            match resolve_in(parent, path) {
                Ok(below) => return metadata::copy_directory(&below, place),
                Err(Errno::NOENT) => {}
                Err(_) => return Ok(()), // something else than a directory lies there: nothing to inherit
            }
        }
        Ok(())
    }
}

/// Gives `directories` of the layer at `dest`, as [`super::Applied::implied`] lists them, the attributes they have in the
/// nearest of the layers below (`parents`, nearest first). What is not there below stays as it is.
pub fn inherit(dest: &Path, directories: &[Vec<u8>], parents: Vec<PathBuf>) -> Result<(), UnpackError> {
    let options = ApplyOptions { parents, ..ApplyOptions::default() };
    let root = Root::open(dest, &options)
        .map_err(|error| UnpackError::io("open", dest.as_os_str().as_encoded_bytes(), error))?;
    for path in directories {
        let inherited = match root.resolve(path) {
            Ok(dir) => root.inherit(&Place { dir: &dir, base: b"." }, path),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()), // replaced by a later entry
            Err(error) => Err(error),
        };
        inherited.map_err(|error| UnpackError::io("copy attributes of the directory below", path, error))?;
    }
    Ok(())
}

fn resolve_in(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    openat2(
        root,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// A name of the archive as a path below the destination: no empty, `.` or `..` components, `..` never above the root.
pub(crate) fn normalise(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// A normalised path as (directory, base name).
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.iter()
        .rposition(|&byte| byte == b'/')
        .map_or((&b""[..], path), |slash| (&path[..slash], &path[slash + 1..]))
}

/// Removes a name and everything below it, links not followed.
pub(super) fn remove(dir: impl AsFd, base: &[u8]) -> Result<(), Errno> {
    match unlinkat(&dir, base, AtFlags::empty()) {
        Ok(()) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let child = openat(&dir, base, flags, Mode::empty())?;
    for entry in Dir::read_from(&child)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name != c"." && name != c".." {
            remove(&child, name.to_bytes())?;
        }
    }
    unlinkat(&dir, base, AtFlags::REMOVEDIR)
}
