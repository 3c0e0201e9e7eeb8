//! A cold start on a warm machine: takes the image's files out of the page cache before a recording.
//!
//! Only those files, never the whole cache of the host. A page that some other process has mapped stays.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::{Advice, OFlags, fadvise, syncfs};

use super::EbpfError;
use super::identity::walk;

/// Drops the cached pages of every file of the layers.
pub(super) fn drop_cached(layers: &[PathBuf]) -> Result<(), EbpfError> {
    // A page that is not on disk yet cannot be dropped, and layers that were unpacked just now are full of them. All
    // layers are beside each other on one file system.
    if let Some(layer) = layers.first() {
        let dir = File::open(layer).map_err(EbpfError::layer(layer))?;
        syncfs(&dir).map_err(|errno| EbpfError::layer(layer)(errno.into()))?;
    }
    for layer in layers {
        walk(layer, &mut |path, _| {
            let flags = (OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::NONBLOCK).bits() as i32;
            let result = File::options()
                .read(true)
                .custom_flags(flags)
                .open(path)
                .and_then(|file| fadvise(&file, 0, None, Advice::DontNeed).map_err(Into::into));
            if let Err(error) = result {
                // A warm file is recorded less exactly, and completely all the same.
                tracing::debug!(path = %path.display(), %error, "cannot drop a file from the page cache");
            }
        })?;
    }
    Ok(())
}
