//! Mounts an image from a file (Linux 6.12 or later, with EROFS_FS_BACKED_BY_FILE).
//!
//! The kernel reads 128 KiB ahead on a new file system; here that would fetch what nobody has asked for. A mount is handed
//! out only when its read-ahead is what was wanted.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use parking_lot::Mutex;
use rustix::mount::{MountFlags, UnmountFlags};

/// Where the kernel lists what reads ahead.
const DEVICES: &str = "/sys/class/bdi";
/// Bytes of a page.
const PAGE: u32 = 4096;
/// Mounts that are tried until it is certain which of the list is ours.
const TRIES: usize = 4;

/// The kernel says nowhere which entry of its list belongs to a mount. One mount at a time, so that it is the new one.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Mounts the image in a file on a directory, read-only; `read_ahead` in bytes, where a page or less is none: the kernel would
/// read the next page, too. The mount table shows the file's path.
pub(crate) fn mount(image: &Path, mountpoint: &Path, read_ahead: u32) -> io::Result<()> {
    let _alone = ONE_AT_A_TIME.lock();
    for _ in 0..TRIES {
        let before = devices()?;
        rustix::mount::mount(
            image,
            mountpoint,
            "erofs",
            MountFlags::RDONLY | MountFlags::NOATIME,
            None::<&std::ffi::CStr>,
        )?;
        match set_read_ahead(&before, read_ahead) {
            Ok(true) => return Ok(()),
            // Another process has mounted an image at the same time.
            Ok(false) => rustix::mount::unmount(mountpoint, UnmountFlags::empty())?,
            Err(error) => {
                rustix::mount::unmount(mountpoint, UnmountFlags::empty())?;
                return Err(error);
            }
        }
    }
    Err(io::Error::other("the kernel does not say which read-ahead is the mount's"))
}

/// Sets the read-ahead of what was not there before. `false`: there is more than one, or none.
fn set_read_ahead(before: &HashSet<OsString>, bytes: u32) -> io::Result<bool> {
    let now = devices()?;
    let mut new = now.difference(before);
    let (Some(device), None) = (new.next(), new.next()) else { return Ok(false) };
    let setting = Path::new(DEVICES).join(device).join("read_ahead_kb");
    let kibibytes = if bytes <= PAGE { 0 } else { bytes / 1024 };
    fs::write(setting, kibibytes.to_string())?;
    Ok(true)
}

fn devices() -> io::Result<HashSet<OsString>> {
    let names = fs::read_dir(DEVICES)?.map(|entry| Ok(entry?.file_name()));
    names.filter(|name| name.as_ref().map_or(true, is_erofs)).collect()
}

fn is_erofs(name: &OsString) -> bool {
    name.as_encoded_bytes().starts_with(b"erofs")
}
