//! Files that the user names for results. None of them is replaced unasked, and nobody sees half of one.
//!
//! A [`Pending`] owns a file beside the one that it will be, and takes its name when it is whole. What is no plain file (a
//! device, a pipe) is written to and stays what it is; a link is followed, so that it stays one, too.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::{Builder, NamedTempFile};

use crate::hint::Hinted;

/// May a file be replaced?
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub(crate) struct Overwrite {
    /// Replace the file that is written to if it is there.
    #[arg(long)]
    overwrite: bool,
}

impl Overwrite {
    /// Said or not.
    pub(crate) const fn is_on(self) -> bool {
        self.overwrite
    }
}

/// What has a name now.
#[derive(Debug, PartialEq, Eq)]
enum There {
    Nothing,
    /// To be replaced: where it is, links followed.
    File(PathBuf),
    /// To be written to.
    Special,
}

fn there(path: &Path, force: bool) -> Result<There> {
    let cannot = || format!("cannot write {}", path.display());
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            Ok(There::Nothing)
        }
        Err(error) => Err(error).with_context(cannot),
        Ok(found) if found.is_dir() => Err(io::Error::from(io::ErrorKind::IsADirectory)).with_context(cannot),
        Ok(found) if !found.is_file() => Ok(There::Special),
        Ok(_) if force => Ok(There::File(fs::canonicalize(path).with_context(cannot)?)),
        Ok(_) => {
            let hint = "--overwrite replaces it; another name keeps it";
            Err(Hinted::new(format!("{} is there already", path.display()), hint).into())
        }
    }
}

/// Looks whether a file may be written, before any work is done for it.
///
/// # Errors
/// When it is there and may not be replaced.
pub(crate) fn check(path: &Path, force: bool) -> Result<()> {
    there(path, force).map(drop)
}

/// Moves a whole file to its place, which is on the same file system unless it is special.
///
/// # Errors
/// When it is there and may not be replaced, or the disk refuses.
pub(crate) fn put(from: &Path, to: &Path, force: bool) -> Result<()> {
    let cannot = || format!("cannot write {}", to.display());
    match there(to, force)? {
        // Not a rename: somebody may have made it meanwhile.
        There::Nothing => fs::hard_link(from, to).and_then(|()| fs::remove_file(from)).with_context(cannot),
        There::File(real) => fs::rename(from, real).with_context(cannot),
        There::Special => {
            let copy = || io::copy(&mut File::open(from)?, &mut File::options().write(true).open(to)?);
            copy().map(drop).with_context(cannot)
        }
    }
}

/// A file that takes its name when it is whole.
#[derive(Debug)]
pub(crate) struct Pending {
    file: NamedTempFile,
    path: PathBuf,
    there: There,
}

impl Pending {
    /// For a result of this name.
    ///
    /// # Errors
    /// When it is there and may not be replaced, or nothing can be written beside it.
    pub(crate) fn new(path: &Path, force: bool) -> Result<Self> {
        let there = there(path, force)?;
        let beside = match &there {
            There::File(real) => real.parent(),
            There::Nothing => path.parent(),
            There::Special => None,
        };
        let mut builder = Builder::new();
        builder.prefix(".soci-").permissions(Permissions::from_mode(0o666));
        let made = match (&there, beside) {
            (There::Special, _) => builder.tempfile(),
            (_, Some(dir)) if !dir.as_os_str().is_empty() => builder.tempfile_in(dir),
            _ => builder.tempfile_in("."),
        };
        let file = made.with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { file, path: path.to_owned(), there })
    }

    /// Where it is until then.
    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Writes into it.
    pub(crate) fn writer(&mut self) -> BufWriter<&mut File> {
        BufWriter::with_capacity(64 << 10, self.file.as_file_mut())
    }

    /// Puts bytes into it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.as_file_mut().write_all(bytes);
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// When somebody else has made that file meanwhile, or the disk refuses.
    pub(crate) fn finish(mut self) -> Result<()> {
        let create = || format!("cannot create {}", self.path.display());
        self.file.flush().with_context(create)?;
        match &self.there {
            There::Special => {
                let mut special = File::options().write(true).open(&self.path).with_context(create)?;
                self.file
                    .rewind()
                    .and_then(|()| io::copy(self.file.as_file_mut(), &mut special))
                    .with_context(create)?;
                return Ok(());
            }
            There::Nothing | There::File(_) => self.file.as_file().sync_all().with_context(create)?,
        }
        let persisted = match &self.there {
            There::File(real) => self.file.persist(real),
            There::Nothing | There::Special => self.file.persist_noclobber(&self.path),
        };
        persisted
            .map_err(|error| error.error)
            .with_context(|| format!("cannot create {}", self.path.display()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path, force: bool) -> Result<()> {
        let mut pending = Pending::new(path, force)?;
        pending.put(b"new")?;
        pending.finish()
    }

    #[test]
    fn nothing_is_replaced_unasked_and_links_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        write(&file, false).unwrap();
        fs::write(&file, "old").unwrap();
        symlink("file", &link).unwrap();
        for name in [&file, &link] {
            let refused = write(name, false).unwrap_err();
            assert!(refused.to_string().contains("is there already"), "{refused}");
            check(name, false).unwrap_err();
        }
        assert_eq!(fs::read(&file).unwrap(), b"old");
        write(&link, true).unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
        write(dir.path(), true).unwrap_err();
        let made = dir.path().join("made");
        fs::write(&made, "made").unwrap();
        put(&made, &file, false).unwrap_err();
        put(&made, &file, true).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"made");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_plain_file_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write(&pipe, false).unwrap();
        assert_eq!(reader.join().unwrap(), b"new");
        assert!(!pipe.metadata().unwrap().is_file());
        write(Path::new("/dev/null"), true).unwrap();
    }
}
