//! A cgroup of its own for a workload, so that its processes can be told from all others.
//!
//! Owns an empty cgroup of the unified hierarchy below our own one, without any limits; dropping it removes it. Works
//! beside the hierarchies of version 1 too: the unified one is always in the kernel, and mounted here when nobody has.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Prefix of our cgroups; the process id of the owner follows.
const PREFIX: &str = "soci-record-";
/// How long the last processes may take to be gone.
const EMPTY: Duration = Duration::from_secs(5);
/// Inode of the namespace that is not inside any other (`PROC_CGROUP_INIT_INO` of the kernel).
const INITIAL_NAMESPACE: u64 = 0xefff_fffb;

/// Number of the next cgroup of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// Why there is no cgroup for the workload.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The depth of a cgroup cannot be known inside a cgroup namespace.
    #[error("inside a cgroup namespace, where the depth of a cgroup is hidden")]
    Namespace,
    /// We are not in the unified hierarchy.
    #[error("this process is in no cgroup of the unified hierarchy (version 2)")]
    NoUnified,
    /// Something on the way failed.
    #[error("{action} {path}")]
    System {
        /// What was being done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl CgroupError {
    fn system(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::System { action, path, source }
    }
}

/// A cgroup for one workload.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    id: u64,
    level: u32,
    mounted: Option<PathBuf>,
}

impl Cgroup {
    /// Makes one. `mountpoint`, an empty directory, is used when the unified hierarchy is not mounted yet.
    pub fn new(mountpoint: &Path) -> Result<Self, CgroupError> {
        let read = |path: &str| fs::read(path).map_err(CgroupError::system("read", Path::new(path)));
        let namespace = Path::new("/proc/self/ns/cgroup");
        let inode = fs::metadata(namespace).map_err(CgroupError::system("look at", namespace))?.ino();
        if inode != INITIAL_NAMESPACE {
            return Err(CgroupError::Namespace);
        }
        let own = read("/proc/self/cgroup")?;
        let own = own.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::/"));
        let own = PathBuf::from(std::ffi::OsString::from_vec(own.ok_or(CgroupError::NoUnified)?.to_vec()));
        let (root, mounted) = if let Some(root) = unified(&read("/proc/self/mountinfo")?) {
            (root, None)
        } else {
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount("cgroup2", mountpoint, "cgroup2", flags, c"")
                .map_err(|errno| CgroupError::system("mount cgroup2 on", mountpoint)(errno.into()))?;
            (mountpoint.to_owned(), Some(mountpoint.to_owned()))
        };
        let parent = root.join(&own);
        remove_orphans(&parent);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("{PREFIX}{}-{number}", std::process::id()));
        // From here on the drop takes the mount away.
        let mut this = Self { dir, id: 0, level: own.components().count() as u32 + 1, mounted };
        fs::create_dir(&this.dir).map_err(CgroupError::system("make", &this.dir))?;
        this.id = fs::metadata(&this.dir).map_err(CgroupError::system("look at", &this.dir))?.ino();
        Ok(this)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The kernel's number of it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How deep it is below the root, whose level is 0.
    pub fn level(&self) -> u32 {
        self.level
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let limit = Instant::now() + EMPTY;
        while let Err(error) = fs::remove_dir(&self.dir) {
            match error.kind() {
                io::ErrorKind::NotFound => break,
                io::ErrorKind::ResourceBusy if Instant::now() < limit => sleep(Duration::from_millis(5)),
                _ => {
                    tracing::warn!(path = %self.dir.display(), %error, "cannot remove the workload's cgroup");
                    break;
                }
            }
        }
        if let Some(mountpoint) = &self.mounted
            && let Err(errno) = unmount(mountpoint, UnmountFlags::DETACH)
        {
            tracing::warn!(path = %mountpoint.display(), %errno, "cannot unmount cgroup2");
        }
    }
}

/// Moves the calling process into a cgroup.
pub(super) fn enter(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("cgroup.procs"), "0")
}

/// The file by which processes enter a cgroup, for a time at which its directory will be out of sight.
pub(super) fn open_procs(dir: &Path) -> io::Result<fs::File> {
    fs::File::options().write(true).open(dir.join("cgroup.procs"))
}

/// Kills all processes in a cgroup, as far as the kernel knows how (5.14 and later).
pub(super) fn kill(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("cgroup.kill"), "1")
}

/// Removes the cgroups of recorders that were killed. What still has processes stays, the kernel sees to that.
fn remove_orphans(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir(entry.path()); // somebody else may have been faster
        }
    }
}

/// Where the whole unified hierarchy is mounted, if it is and this is no cgroup namespace.
pub fn unified_root() -> Option<PathBuf> {
    let initial = fs::metadata("/proc/self/ns/cgroup").is_ok_and(|inode| inode.ino() == INITIAL_NAMESPACE);
    fs::read("/proc/self/mountinfo").ok().filter(|_| initial).and_then(|table| unified(&table))
}

/// Where the whole unified hierarchy is mounted, by the lines of mountinfo (proc_pid_mountinfo(5)).
fn unified(mountinfo: &[u8]) -> Option<PathBuf> {
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let kind = fields.iter().position(|field| *field == b"-")? + 1;
        let whole = fields.get(kind) == Some(&&b"cgroup2"[..]) && fields.get(3) == Some(&&b"/"[..]);
        // A place with a backslash would have to be unescaped: the next one will do.
        let place = fields.get(4).filter(|place| whole && !place.contains(&b'\\'))?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(place.to_vec())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_beside_others() {
        let table = b"30 1 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            31 1 0:27 /docker/1 /part rw shared:9 - cgroup2 cgroup2 rw\n\
            32 1 0:27 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(unified(table), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(unified(&table[..60]), None);
    }
}
