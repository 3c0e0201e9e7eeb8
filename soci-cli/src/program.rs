//! Where this program is. Owns the path, which is looked up once, before anything else.
//!
//! What must always hold: the path is that of the root that the user started the program in. A change of root, as in a chroot that gets
//! mounts of its own, would change what the kernel says.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result};

static OWN: OnceLock<Result<PathBuf, Error>> = OnceLock::new();

/// Looks it up. The first that `main` does.
pub(crate) fn remember() {
    OWN.get_or_init(std::env::current_exe);
}

/// The path of the running program.
pub(crate) fn own() -> Result<&'static Path> {
    let path = OWN.get_or_init(std::env::current_exe).as_ref();
    // An error cannot be given twice.
    path.map(PathBuf::as_path)
        .map_err(|error| {
            error.raw_os_error().map_or_else(|| ErrorKind::NotFound.into(), Error::from_raw_os_error)
        })
        .context("cannot find the running program (is /proc mounted?)")
}
