//! The regular files below a directory, on its own file system. Keeps no state.
//!
//! Links are not followed and mounts of other file systems not entered. What goes away during the walk is left out, since
//! a directory that is no image's may be in use.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Calls `visit` for each regular file below `dir`; an error names the path that caused it.
pub(crate) fn each_file(
    dir: &Path,
    visit: &mut dyn FnMut(&Path, &Metadata) -> io::Result<()>,
) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    let device = fs::metadata(dir).map_err(at(dir))?.dev();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let Some(entries) = there(fs::read_dir(&dir)).map_err(at(&dir))? else { continue };
        for entry in entries {
            let entry = entry.map_err(at(&dir))?;
            let path = entry.path();
            // Of the file itself: the type in a directory's entry does not tell what is mounted there.
            let Some(metadata) = there(fs::symlink_metadata(&path)).map_err(at(&path))? else { continue };
            if metadata.dev() != device {
                continue;
            }
            if metadata.is_dir() {
                dirs.push(path);
            } else if metadata.is_file() {
                there(visit(&path, &metadata)).map_err(at(&path))?;
            }
        }
    }
    Ok(())
}

/// `None` for what is not there any more.
fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        result => result.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_once_and_links_and_lost_ones_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        for name in ["one", "a/two", "a/b/three"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/round")).unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("link")).unwrap();
        let mut found = Vec::new();
        let visit = &mut |path: &Path, metadata: &Metadata| {
            found.push((path.strip_prefix(dir.path()).unwrap().to_owned(), metadata.len()));
            Err(io::ErrorKind::NotFound.into()) // it has just gone
        };
        each_file(dir.path(), visit).unwrap();
        found.sort();
        let found: Vec<_> = found.iter().map(|(path, len)| (path.to_str().unwrap(), *len)).collect();
        assert_eq!(found, [("a/b/three", 9), ("a/two", 5), ("one", 3)]);
        let refused = each_file(dir.path(), &mut |_, _| Err(io::ErrorKind::PermissionDenied.into()));
        assert!(refused.is_err());
        let (path, _) = each_file(&dir.path().join("none"), &mut |_, _| Ok(())).unwrap_err();
        assert!(path.ends_with("none"));
    }
}
