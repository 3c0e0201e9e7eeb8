//! The mount of the hidden file system, and what is mounted from it.
//!
//! Only the mount of FUSE itself is made by the serving process, before it serves. Everything else is for a helper process
//! ([`super::helper`]): whoever waits for the connection inside the kernel cannot be killed, and must not be the one who has
//! to answer. No state lives here, and nothing unmounts on drop.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::mount::{MountFlags, UnmountFlags};

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
    let image = File::open(image)?;
    crate::erofs::mount::mount(image.as_fd(), mountpoint, read_ahead)
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
    drop(File::open(mountpoint.join(OsStr::from_bytes(super::forest::PROBE)))?);
    // It is not listed: the kernel would keep the listing.
    drop(File::open(mountpoint)?);
    Ok(())
}

/// The mounts on a directory, by the text of the mount table.
fn mounted_on<'a>(table: &'a [u8], mountpoint: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    let points =
        table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points.map(unescape).filter(move |point| point == mountpoint)
}

/// The table writes blanks, newlines and backslashes of a path as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let digits =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            path.push(byte);
            rest = &after[3..];
        } else {
            path.push(*first);
            rest = after;
        }
    }
    OsString::from_vec(path).into()
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
        assert_eq!(unescape(b"/a\\134b\\04"), Path::new("/a\\b\\04"));
    }
}
