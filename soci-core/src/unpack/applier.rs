//! One layer's archive, entry by entry, written below a directory.
//!
//! Owns the file being written and the times that directories get at the end. Rules where an archive names a path
//! twice: the later entry replaces the earlier one, except that a directory keeps its content when it is named again.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;

use super::place::{Place, Root, normalise, remove, split};
use super::{Applied, ApplyOptions, UnpackError, Whiteout, metadata};
use crate::tar::{Entry, EntryKind, Mtime, Sink, Special};

/// Writes the entries of one layer below a directory.
#[derive(Debug)]
pub struct Applier {
    root: Root,
    options: ApplyOptions,
    current: Option<(Vec<u8>, File, Entry)>,
    /// The last bytes of the file being written were those of a hole.
    in_hole: bool,
    directories: Vec<(Vec<u8>, Mtime)>,
    applied: Applied,
}

impl Applier {
    /// Starts a layer in `dest`, an existing directory, which the caller keeps from being changed by others.
    pub fn new(dest: &Path, options: ApplyOptions) -> Result<Self, UnpackError> {
        let root = Root::open(dest, &options)
            .map_err(|error| UnpackError::io("open", dest.as_os_str().as_encoded_bytes(), error))?;
        Ok(Self {
            root,
            options,
            current: None,
            in_hole: false,
            directories: Vec::new(),
            applied: Applied::default(),
        })
    }

    /// Ends the layer: closes the last file and sets the times of the directories.
    pub fn finish(mut self) -> Result<Applied, UnpackError> {
        self.close_file()?;
        for (path, mtime) in std::mem::take(&mut self.directories).into_iter().rev() {
            let (parent, base) = split(&path);
            // The directory may have been replaced by a later entry, which then has its own times.
            let place =
                Place { dir: self.root.directory(parent)?, base: if base.is_empty() { b"." } else { base } };
            if let Ok(Some(stat)) = place.stat()
                && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            {
                metadata::set_mtime(&place, mtime)
                    .map_err(|error| UnpackError::io("set times of", &path, error))?;
            }
        }
        self.applied.implied = self.root.implied();
        Ok(self.applied)
    }

    /// The file being written is complete: its metadata can be set.
    fn close_file(&mut self) -> Result<(), UnpackError> {
        let Some((path, file, entry)) = self.current.take() else { return Ok(()) };
        if std::mem::take(&mut self.in_hole) {
            file.set_len(entry.size).map_err(|error| UnpackError::io("write", &path, error))?;
        }
        drop(file);
        let (parent, base) = split(&path);
        let place = Place { dir: self.root.directory(parent)?, base };
        metadata::set(&place, &entry, &path)
    }

    fn apply(&mut self, entry: Entry) -> Result<(), UnpackError> {
        self.close_file()?;
        self.applied.entries += 1;
        let path = normalise(&entry.name);
        let (parent, base) = split(&path);
        if base.is_empty() {
            // The layer's root directory.
            let place = Place { dir: self.root.directory(b"")?, base: b"." };
            metadata::set(&place, &entry, b"/")?;
            let inode =
                place.stat().map_err(|error| UnpackError::io("stat", b"/", error))?.map(|stat| stat.st_ino);
            if let Some(inode) = inode {
                self.root.listed(inode);
            }
            self.directories.push((path, entry.mtime));
            return Ok(());
        }
        match Whiteout::of(base) {
            Whiteout::No => self.place_entry(&path, entry),
            Whiteout::Aufs => Ok(()),
            Whiteout::Opaque => {
                let place = Place { dir: self.root.directory(parent)?, base: b"." };
                metadata::set_opaque(&place, self.options.whiteouts)
                    .map_err(|error| UnpackError::io("mark directory opaque", &path, error))
            }
            Whiteout::Name(hidden) => self.hide(parent, hidden, &path),
        }
    }

    /// Hides `base` of the layers below.
    fn hide(&mut self, parent: &[u8], base: &[u8], path: &[u8]) -> Result<(), UnpackError> {
        if matches!(base, b"" | b"." | b"..") {
            return Err(UnpackError::Name {
                path: String::from_utf8_lossy(path).into_owned(),
                reason: "whiteout without a name",
            });
        }
        let fail = |error: Errno| UnpackError::io("write whiteout", path, error);
        let place = Place { dir: self.root.directory(parent)?, base };
        match place.stat().map_err(fail)? {
            None => mknodat(place.dir, base, FileType::CharacterDevice, Mode::empty(), 0).map_err(fail),
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                metadata::set_opaque(&place, self.options.whiteouts).map_err(fail)
            }
            Some(_) => Ok(()), // this layer's own file of that name hides the lower one already
        }
    }

    fn place_entry(&mut self, path: &[u8], entry: Entry) -> Result<(), UnpackError> {
        let (parent, base) = split(path);
        let fail = |action| move |error: Errno| UnpackError::io(action, path, error);
        let target = self.link_target(&entry)?;
        let place = Place { dir: self.root.directory(parent)?, base };
        let mut hidden_below = false;
        let mut merge = false;
        let mut listed = None;
        let mut reshaped = entry.kind == EntryKind::Symlink;
        if let Some(stat) = place.stat().map_err(fail("stat"))? {
            let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            merge = is_dir && entry.kind == EntryKind::Dir;
            hidden_below = metadata::is_whiteout(&stat) && entry.kind == EntryKind::Dir;
            listed = merge.then_some(stat.st_ino);
            if !merge {
                remove(place.dir, base).map_err(fail("replace"))?;
                reshaped = true;
            }
        }
        match entry.kind {
            EntryKind::Dir => {
                if !merge {
                    mkdirat(place.dir, base, Mode::from(0o700)).map_err(fail("make directory"))?;
                }
                if hidden_below {
                    metadata::set_opaque(&place, self.options.whiteouts)
                        .map_err(fail("mark directory opaque"))?;
                }
                self.directories.push((path.to_vec(), entry.mtime));
            }
            EntryKind::Reg => {
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(place.dir, base, flags, Mode::from(0o600)).map_err(fail("create"))?;
                self.current = Some((path.to_vec(), File::from(file), entry));
                if reshaped {
                    self.root.forget();
                }
                return Ok(());
            }
            EntryKind::Symlink => {
                symlinkat(entry.link_name.as_slice(), place.dir, base).map_err(fail("make symbolic link"))?;
            }
            EntryKind::Fifo => {
                mknodat(place.dir, base, FileType::Fifo, Mode::from(0o600), 0).map_err(fail("make fifo"))?;
            }
            EntryKind::Char | EntryKind::Block => {
                let kind = if entry.kind == EntryKind::Char {
                    FileType::CharacterDevice
                } else {
                    FileType::BlockDevice
                };
                let device = makedev(number(entry.dev_major, path)?, number(entry.dev_minor, path)?);
                mknodat(place.dir, base, kind, Mode::from(0o600), device).map_err(fail("make device"))?;
            }
            EntryKind::HardLink => {
                // The target's own entry has set owner, mode and times of the inode.
                let Some((target_dir, target_base)) = target else { return Ok(()) };
                linkat(&target_dir, target_base, place.dir, base, AtFlags::empty())
                    .map_err(fail("make hard link"))?;
                if reshaped {
                    self.root.forget();
                }
                return Ok(());
            }
        }
        metadata::set(&place, &entry, path)?;
        if reshaped {
            self.root.forget();
        }
        if let Some(inode) = listed {
            self.root.listed(inode);
        }
        Ok(())
    }

    /// Opens the directory of a hard link's target, which lies in this layer.
    fn link_target(&mut self, entry: &Entry) -> Result<Option<(std::os::fd::OwnedFd, Vec<u8>)>, UnpackError> {
        if entry.kind != EntryKind::HardLink {
            return Ok(None);
        }
        let target = normalise(&entry.link_name);
        let (parent, base) = split(&target);
        let fail = |error: Errno| UnpackError::io("open target of hard link", &entry.name, error);
        let dir = self.root.directory(parent)?;
        let dir = openat(dir, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(fail)?;
        Ok(Some((dir, base.to_vec())))
    }
}

impl Sink for Applier {
    type Error = UnpackError;

    fn entry(&mut self, entry: Entry) -> Result<(), UnpackError> {
        self.apply(entry)
    }

    /// containerd refuses `7` and the old sparse files; GNU tar and POSIX read both.
    fn special(&mut self, entry: Entry, special: Special) -> Result<(), UnpackError> {
        match special {
            Special::Sparse | Special::Contiguous => self.apply(entry),
            Special::Global => Ok(()),
            Special::Other(_) => Err(special.refused(&entry).into()),
        }
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), UnpackError> {
        let Some((path, file, _)) = &mut self.current else { return Ok(()) };
        file.write_all(bytes).map_err(|error| UnpackError::io("write", path, error))?;
        self.in_hole = false;
        self.applied.bytes += bytes.len() as u64;
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<(), UnpackError> {
        let Some((path, file, _)) = &mut self.current else { return Ok(()) };
        // Holes of one file are together shorter than the file, which is shorter than 2^63.
        self.in_hole = true;
        let moved = file.seek(SeekFrom::Current(length.cast_signed()));
        moved.map(|_| ()).map_err(|error| UnpackError::io("write", path, error))
    }
}

/// A device number's half.
fn number(value: i64, path: &[u8]) -> Result<u32, UnpackError> {
    u32::try_from(value).map_err(|_| UnpackError::Number {
        path: String::from_utf8_lossy(path).into_owned(),
        field: "device number",
        value,
    })
}
