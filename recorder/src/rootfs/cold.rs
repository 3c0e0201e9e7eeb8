//! Forgetting what the page cache holds of unpacked layers, so that the next run is as cold as the first. Keeps no
//! state; links are not followed, so nothing outside the given directories is touched.

use std::io;
use std::path::Path;

use rustix::fs::{Advice, CWD, Mode, OFlags, fadvise, openat, syncfs};

use super::{RootfsError, each_file};

/// Asks the kernel to drop the cached pages of every file below `dirs`. Pages in use elsewhere may stay.
pub fn forget_pages<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> Result<(), RootfsError> {
    for dir in dirs {
        // Pages that are not on disk yet would stay: those of a layer that has just been unpacked.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, dir, flags, Mode::empty())
            .and_then(|dir| syncfs(&dir))
            .map_err(|errno| RootfsError::state("sync", dir)(errno.into()))?;
        each_file(dir, &mut |file, _| forget(file))
            .map_err(|(path, error)| RootfsError::state("drop cached pages of", path)(error))?;
    }
    Ok(())
}

fn forget(file: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
    let file = openat(CWD, file, flags, Mode::empty())?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::IoSliceMut;

    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    /// Does the page cache hold the start of the file?
    fn cached(file: &fs::File) -> bool {
        let mut byte = [0];
        match preadv2(file, &mut [IoSliceMut::new(&mut byte)], 0, ReadWriteFlags::NOWAIT) {
            Ok(_) => true,
            Err(Errno::AGAIN) => false,
            Err(error) => {
                panic!("the target directory is to be on a disk whose file system says this: {error}")
            }
        }
    }

    #[test]
    fn pages_of_files_are_dropped_and_links_are_left_alone() {
        // Where this test was built, and not where a file may have no other home than the page cache.
        let here = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(here.parent().unwrap()).unwrap();
        let path = dir.path().join("layer/below/file");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, vec![7; 1 << 16]).unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("layer/link")).unwrap();
        let file = fs::File::open(&path).unwrap();
        assert!(cached(&file), "just written");
        forget_pages([dir.path().join("layer").as_path()]).unwrap();
        assert!(!cached(&file));
        assert!(forget_pages([dir.path().join("nothing").as_path()]).is_err());
    }
}
