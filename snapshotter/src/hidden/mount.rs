//! The mount of the hidden file system, and what is mounted from it.
//!
//! Only the mount of FUSE itself is made by the serving process, before it serves. Everything else is for a helper process
//! ([`super::helper`]): whoever waits for the connection inside the kernel cannot be killed, and must not be the one who has
//! to answer. No state lives here, and nothing unmounts on drop.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::mountinfo;

/// Name of the device in the mount table.
const SOURCE: &str = "soci";
/// Type in the mount table.
const TYPE: &str = "fuse.soci";
/// Options of the mount, besides the device's descriptor.
const OPTIONS: &str = "rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions";
/// Where the kernel lists what reads ahead. One image at a time is mounted, so that the new entry is known to be its.
const DEVICES: &str = "/sys/class/bdi";

/// Opens a new connection. It is not mounted yet.
pub(super) fn open_device() -> io::Result<OwnedFd> {
    Ok(open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Mounts the hidden file system on a directory. The kernel's INIT request can be read from the descriptor then.
pub(super) fn mount_fuse(device: BorrowedFd<'_>, mountpoint: &Path) -> io::Result<()> {
    let options = CString::new(format!("fd={},{OPTIONS}", device.as_raw_fd()))?;
    let flags = MountFlags::RDONLY | MountFlags::NOATIME;
    Ok(rustix::mount::mount(SOURCE, mountpoint, TYPE, flags, options.as_c_str())?)
}

/// Mounts an image that the connection serves. Blocks until the server has answered for the image's first blocks.
pub(super) fn mount_image(image: &Path, mountpoint: &Path, read_ahead: u32) -> io::Result<()> {
    // Other helpers mount at the same time. The lock ends with the process.
    let alone = File::open(DEVICES)?;
    flock(&alone, FlockOperation::LockExclusive)?;
    crate::erofs::mount::mount(image, mountpoint, read_ahead)
}

/// Shows a directory of the hidden mount at another place, too. Blocks until the server has answered for its name.
pub(super) fn bind(tree: &Path, mountpoint: &Path) -> io::Result<()> {
    Ok(rustix::mount::mount_bind(tree, mountpoint)?)
}

/// Takes a mount out of the directory tree. Who has files of it open keeps it until they are closed.
pub(super) fn detach(mountpoint: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(mountpoint, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

/// Detaches all that an earlier connection has left on a directory. It does not touch the file system, which may be dead.
pub(super) fn detach_all(mountpoint: &Path) -> io::Result<()> {
    for _ in mounted_on(&fs::read("/proc/self/mountinfo")?, mountpoint) {
        detach(mountpoint)?;
    }
    Ok(())
}

/// Teaches the kernel what the server does not do. It asks once each for OPEN, FLUSH and OPENDIR, is told ENOSYS, and asks no
/// more. Before that, whoever has a file of the mount open cannot even start a successor: exec(2) closes the file, and
/// FLUSH waits for the server that is to be started.
pub(super) fn prime(mountpoint: &Path) -> io::Result<()> {
    drop(File::open(mountpoint.join(OsStr::from_bytes(super::wire::PROBE)))?);
    // It is not listed: the kernel would keep the listing.
    drop(File::open(mountpoint)?);
    Ok(())
}

/// The mounts on a directory, by the text of the mount table.
fn mounted_on<'a>(table: &'a [u8], mountpoint: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    let points = table.split(|byte| *byte == b'\n').filter_map(mountinfo::mountpoint);
    points.filter(move |point| point == mountpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_directory() {
        let table = b"22 1 0:20 / / rw - ext4 /dev/vda rw\n\
            30 22 0:31 / /var/lib/so\\040ci ro - fuse.soci soci rw\n\
            31 22 0:32 / /var/lib/so\\040ci ro - fuse.soci soci rw\n\
            32 22 0:33 / /var/lib/so\\040ci/more ro - tmpfs tmpfs rw\n";
        assert_eq!(mounted_on(table, Path::new("/var/lib/so ci")).count(), 2);
        assert_eq!(mounted_on(table, Path::new("/var/lib")).count(), 0);
    }
}
