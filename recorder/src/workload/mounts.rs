//! The mounts of a workload: its root, `/proc`, `/dev`, `/sys`, and files of the host bound over the image's.
//!
//! Runs in the workload's own mount namespace, before its root is entered. Every target is resolved with the image as
//! root, so that a link in the image cannot make us mount over the host.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, chmodat, makedev, mkdirat, mknodat, openat, openat2,
    statfs, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{chdir, pivot_root};

use super::{Net, Spec};

/// A step that failed, for the message to the parent.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {errno}")]
pub(super) struct MountError {
    step: String,
    errno: Errno,
}

fn step<T>(name: impl Into<String>, result: Result<T, Errno>) -> Result<T, MountError> {
    result.map_err(|errno| MountError { step: name.into(), errno })
}

/// Devices of `/dev`: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// Links of `/dev`.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Hidden, as OCI runtimes do: they would show or change the host.
const MASKED: [&str; 6] =
    ["proc/kcore", "proc/keys", "proc/timer_list", "proc/sched_debug", "proc/scsi", "sys/firmware"];
/// Read-only, for the same reason.
const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// Where control groups are mounted.
const CGROUPS: &str = "sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of the kernel.
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// `TMPFS_MAGIC` of the kernel.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Mounts everything and enters the root.
pub(super) fn enter(spec: &Spec) -> Result<(), MountError> {
    step(
        "make mounts private",
        mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE),
    )?;
    step("bind root", mount_bind_recursive(&spec.rootfs, &spec.rootfs))?;
    let root =
        Root(step("open root", openat(CWD, &spec.rootfs, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()))?);
    let sealed = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    root.mount("proc", "proc", sealed, "")?;
    dev(&root)?;
    sys(&root, spec.net, sealed)?;
    for (source, target) in &spec.binds {
        root.bind_file(source, target)?;
    }
    for path in MASKED {
        root.mask(path)?;
    }
    for path in READ_ONLY {
        root.read_only(path)?;
    }
    step("enter root", chdir(&spec.rootfs))?;
    step("pivot root", pivot_root(".", "."))?;
    step("detach the old root", unmount(".", UnmountFlags::DETACH))?;
    step("enter root", chdir("/"))
}

fn dev(root: &Root) -> Result<(), MountError> {
    root.mount("dev", "tmpfs", MountFlags::NOSUID | MountFlags::STRICTATIME, "mode=755,size=65536k")?;
    let dev = root.open("dev")?;
    for (name, major, minor) in DEVICES {
        let device = makedev(major, minor);
        step(
            format!("make /dev/{name}"),
            mknodat(&dev, name, FileType::CharacterDevice, Mode::from(0o666), device),
        )?;
        step(format!("make /dev/{name}"), chmodat(&dev, name, Mode::from(0o666), AtFlags::empty()))?;
    }
    for (name, target) in LINKS {
        step(format!("link /dev/{name}"), symlinkat(target, &dev, name))?;
    }
    let sealed = MountFlags::NOSUID | MountFlags::NOEXEC;
    root.mount("dev/pts", "devpts", sealed, "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    root.mount("dev/mqueue", "mqueue", sealed | MountFlags::NODEV, "")?;
    root.mount("dev/shm", "tmpfs", sealed | MountFlags::NODEV, "mode=1777,size=65536k")
}

fn sys(root: &Root, net: Net, sealed: MountFlags) -> Result<(), MountError> {
    root.mount("sys", "sysfs", sealed, "")?;
    if net == Net::None {
        // IFF_UP | IFF_LOOPBACK: a namespace's loopback interface starts down.
        let flags = root.open("sys/class/net/lo/flags")?;
        let write = std::fs::write(path_of(&flags), "0x9");
        let write = write.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        step("bring the loopback interface up", write)?;
    }
    root.remount_read_only("sys", sealed)?;
    cgroups(root, sealed)
}

/// The control groups, read-only, where runtimes show them: programs look there for their limits.
fn cgroups(root: &Root, sealed: MountFlags) -> Result<(), MountError> {
    let Ok(target) = root.resolve(CGROUPS, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) else {
        return Ok(()); // a kernel without them
    };
    let host = Path::new("/").join(CGROUPS);
    match step(format!("look at {}", host.display()), statfs(&host))?.f_type as i64 {
        CGROUP2_MAGIC => step(
            format!("mount /{CGROUPS}"),
            mount("cgroup2", path_of(&target), "cgroup2", sealed | MountFlags::RDONLY, c""),
        ),
        // Hierarchies of version 1, each mounted below a tmpfs: as the host has them.
        TMPFS_MAGIC => {
            step(format!("bind /{CGROUPS}"), mount_bind_recursive(&host, path_of(&target)))?;
            let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let places = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
            let below: BTreeSet<PathBuf> =
                places.filter(|place| place.starts_with(&host)).map(Path::to_path_buf).collect();
            let relative = below.iter().filter_map(|place| place.strip_prefix("/").ok()?.to_str());
            relative.into_iter().try_for_each(|place| root.remount_read_only(place, sealed))
        }
        _ => Ok(()), // the host shows none
    }
}

/// A path of an opened place that calls without descriptors take, for as long as it is open.
fn path_of(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The workload's root directory, seen from outside.
struct Root(OwnedFd);

impl Root {
    fn resolve(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.0, path.trim_start_matches('/'), flags | OFlags::CLOEXEC, mode, resolve)
    }

    fn open(&self, path: &str) -> Result<OwnedFd, MountError> {
        step(format!("open /{path}"), self.resolve(path, OFlags::PATH, Mode::empty()))
    }

    /// A directory, made where it is missing.
    fn directory(&self, path: &str) -> Result<OwnedFd, Errno> {
        match self.resolve(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT) => {
                let (parent, base) = path.rsplit_once('/').unwrap_or((".", path));
                mkdirat(self.directory(parent)?, base, Mode::from(0o755))?;
                self.resolve(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            }
            other => other,
        }
    }

    fn mount(&self, path: &str, kind: &str, flags: MountFlags, options: &str) -> Result<(), MountError> {
        let target = step(format!("make /{path}"), self.directory(path))?;
        let options = std::ffi::CString::new(options).expect("our own words hold no NUL");
        step(format!("mount /{path}"), mount(kind, path_of(&target), kind, flags, options.as_c_str()))
    }

    /// Binds a file of the host over a file of the image, which is made where it is missing.
    fn bind_file(&self, source: &Path, path: &str) -> Result<(), MountError> {
        let path = path.trim_start_matches('/');
        let target = match self.resolve(path, OFlags::PATH, Mode::empty()) {
            Err(Errno::NOENT) => {
                let parent = path.rsplit_once('/').map_or(".", |(parent, _)| parent);
                step(format!("make /{parent}"), self.directory(parent))?;
                self.resolve(path, OFlags::WRONLY | OFlags::CREATE | OFlags::NOCTTY, Mode::from(0o644))
            }
            other => other,
        };
        match target {
            Ok(target) => step(format!("bind /{path}"), mount_bind(source, path_of(&target))),
            // A link of the image into nothing: the image wants no such file.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(errno) => step(format!("open /{path}"), Err(errno)),
        }
    }

    fn mask(&self, path: &str) -> Result<(), MountError> {
        let Ok(target) = self.resolve(path, OFlags::PATH, Mode::empty()) else { return Ok(()) };
        let is_dir = rustix::fs::fstat(&target)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        step(
            format!("mask /{path}"),
            if is_dir {
                mount("tmpfs", path_of(&target), "tmpfs", MountFlags::RDONLY, c"size=0k")
            } else {
                mount_bind("/dev/null", path_of(&target))
            },
        )
    }

    fn read_only(&self, path: &str) -> Result<(), MountError> {
        let Ok(target) = self.resolve(path, OFlags::PATH, Mode::empty()) else { return Ok(()) };
        step(format!("bind /{path}"), mount_bind_recursive(path_of(&target), path_of(&target)))?;
        self.remount_read_only(path, MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)
    }

    /// Makes the mount at `path` read-only.
    fn remount_read_only(&self, path: &str, flags: MountFlags) -> Result<(), MountError> {
        let target = self.open(path)?;
        let flags = flags | MountFlags::RDONLY | MountFlags::BIND;
        step(format!("make /{path} read-only"), mount_remount(path_of(&target), flags, ""))
    }
}
