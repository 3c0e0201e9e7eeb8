//! Why a layer is not mounted.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;
use soci_core::unpack::UnpackError;

use crate::hidden::{HelperError, HiddenError, JournalError};

/// Why a layer could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no connection to the kernel.
    #[error("cannot serve file systems")]
    Connection(#[source] HiddenError),
    /// The connection has no place for one more layer.
    #[error("cannot serve one more layer")]
    Place(#[from] JournalError),
    /// The kernel cannot mount images from files, or not this one.
    #[error("erofs mount on {} failed", .path.display())]
    Image {
        /// The mountpoint.
        path: PathBuf,
        /// The reason.
        #[source]
        source: HelperError,
    },
    /// The tree could not be shown where it belongs.
    #[error("fuse mount on {} failed", .path.display())]
    Tree {
        /// The mountpoint.
        path: PathBuf,
        /// The reason.
        #[source]
        source: HelperError,
    },
    /// A layer could not be shown with other ids: its file system cannot (FUSE), or the kernel (before Linux 5.19).
    #[error("cannot show {} with the ids of a user namespace", .path.display())]
    Mapped {
        /// The layer.
        path: PathBuf,
        /// The reason.
        #[source]
        source: HelperError,
    },
    /// The layers below could not be asked what directories look like that this one implies.
    #[error("read what the layers below say of the layer's directories")]
    Below(#[source] UnpackError),
    /// What an earlier process has mounted is not what this one would mount.
    #[error("the mount on {} shows something else", .0.display())]
    Different(PathBuf),
    /// The mount table cannot be read or changed.
    #[error("change mounts")]
    Table(#[source] io::Error),
}

impl MountError {
    /// Does it say that this machine mounts no images, and not only this one not now? `any_before`: it has mounted some.
    pub(crate) fn is_of_every_image(&self, any_before: bool) -> bool {
        let Self::Image { source, .. } = self else { return false };
        let Some(errno) = source.refusal().and_then(Errno::from_io_error) else { return false };
        match errno {
            // No EROFS; none from files; no system call; a /sys that cannot be written.
            Errno::NODEV | Errno::NOTBLK | Errno::NOSYS | Errno::ROFS => true,
            // Older kernels say so to files, and all to an image that they do not understand.
            Errno::INVAL => !any_before,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hidden::helper::Work;

    #[test]
    fn one_image_that_fails_says_nothing_of_the_others() {
        let failed = |errno: Errno| {
            let work = Work::Prime { mountpoint: PathBuf::new() };
            MountError::Image {
                path: PathBuf::new(),
                source: HelperError::Work { work, source: errno.into() },
            }
        };
        for errno in [Errno::MFILE, Errno::NOMEM, Errno::BUSY, Errno::IO] {
            assert!(!failed(errno).is_of_every_image(false), "{errno}");
        }
        assert!(failed(Errno::NODEV).is_of_every_image(true));
        assert!(
            failed(Errno::INVAL).is_of_every_image(false) && !failed(Errno::INVAL).is_of_every_image(true)
        );
        assert!(!MountError::Different(PathBuf::new()).is_of_every_image(false));
    }
}
