//! Directories that nobody else may look into: what is cached and unpacked below them is of private images, and has set-uid
//! programs.
//!
//! Holds nothing. What must always hold: a directory is closed to others before anything is in it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

/// Mode of these directories.
const PRIVATE: u32 = 0o700;

/// Makes the root directory, and those above it, or closes the one that is there. `ours` is what it has in it when it is
/// ours.
///
/// # Errors
/// When it is somebody else's, who could put anything into it, or it is open to others and has something else in it: those
/// would be locked out.
pub(crate) fn root(path: &Path, ours: &str) -> io::Result<()> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    let is_open = fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0);
    if is_open && !path.join(ours).exists() && fs::read_dir(path)?.next().is_some() {
        let reason = "others may look into it, and it has files that are not ours";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
    }
    directory(path)
}

/// Makes a directory, or closes the one that is there.
///
/// # Errors
/// When it is somebody else's, or no directory.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(PRIVATE).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let found = fs::metadata(path)?;
    if !found.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let us = rustix::process::geteuid().as_raw();
    if found.uid() != us {
        let reason = format!("it belongs to user {}, and this is user {us}", found.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    fs::set_permissions(path, Permissions::from_mode(PRIVATE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn directories_are_closed_to_others_whether_new_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("above/root");
        root(&path, "ours").unwrap();
        assert_eq!(mode(&path), 0o700);
        for content in ["", "ours"] {
            fs::create_dir_all(path.join(content)).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
            root(&path, "ours").unwrap();
            assert_eq!(mode(&path), 0o700);
        }
    }

    #[test]
    fn what_is_not_ours_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(root(dir.path(), "ours").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(mode(dir.path()), 0o777);
        assert!(directory(&dir.path().join("file")).is_err());
    }
}
