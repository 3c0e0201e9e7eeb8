//! One layer's archive, entry by entry, written below a directory.
//!
//! Owns the file being written and the layer's tree, which decides what each entry does; here it is done. Directories get
//! their times at the end, and those that the archive only implies all that they are.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;

use super::below::Below;
use super::place::{Place, Root, remove};
use super::{Applied, ApplyOptions, UnpackError, metadata};
use crate::tar::{Entry, EntryKind, Sink, Special};
use crate::tree::{self, Growing, Step};

/// Writes the entries of one layer below a directory.
#[derive(Debug)]
pub struct Applier {
    root: Root,
    options: ApplyOptions,
    tree: Growing,
    entries: Vec<Entry>,
    current: Option<Current>,
    /// The last bytes of the file being written were those of a hole.
    in_hole: bool,
    applied: Applied,
}

/// The file being written: its entry, and where it is.
#[derive(Debug)]
struct Current {
    file: File,
    entry: u32,
    parent: u32,
    name: Range<usize>,
}

impl Applier {
    /// Starts a layer in `dest`, an existing empty directory, which the caller keeps from being changed by others.
    pub fn new(dest: &Path, options: ApplyOptions) -> Result<Self, UnpackError> {
        let root = Root::open(dest)
            .map_err(|error| UnpackError::io("open", dest.as_os_str().as_encoded_bytes(), error))?;
        Ok(Self {
            root,
            options,
            tree: Growing::default(),
            entries: Vec::new(),
            current: None,
            in_hole: false,
            applied: Applied::default(),
        })
    }

    /// Ends the layer: closes the last file, and describes the directories.
    pub fn finish(mut self) -> Result<Applied, UnpackError> {
        self.close_file()?;
        let Self { root, options, tree, entries, mut applied, .. } = self;
        let tree = tree.finish(entries.as_slice());
        let mut implied = Vec::new();
        tree.each_directory(entries.as_slice(), |number, path| {
            let fail = |error: Errno| UnpackError::io("set times of", path, error);
            let dir = root.resolve(path).map_err(fail)?;
            let place = Place { dir: &dir, base: b"." };
            if let Some(entry) = tree.inode(number).and_then(|inode| tree.described_by(inode)) {
                let all = tree.attributed_by(number).map(|entry| &entries[entry as usize]);
                let mtime = entries[entry as usize].mtime;
                metadata::complete_directory(&place, all, mtime).map_err(fail)?;
            } else {
                metadata::describe_as_nobody(&place).map_err(fail)?;
                implied.push(path.to_vec());
            }
            Ok::<_, UnpackError>(true)
        })?;
        // Nothing describes the root of a layer, not even its own entry.
        metadata::describe_as_nobody(&Place { dir: root.fd(), base: b"." })
            .map_err(|error| UnpackError::io("set times of", b"/", error))?;
        if options.parents.is_empty() {
            applied.implied = implied;
        } else {
            inherit_in(&root, &implied, &Below::open(&options.parents)?)?;
        }
        Ok(applied)
    }

    /// The file being written is complete: its metadata can be set.
    fn close_file(&mut self) -> Result<(), UnpackError> {
        let Some(Current { file, entry, parent, name }) = self.current.take() else { return Ok(()) };
        if std::mem::take(&mut self.in_hole) {
            let size = self.entries[entry as usize].size;
            file.set_len(size)
                .map_err(|error| UnpackError::io("write", &self.entries[entry as usize].name, error))?;
        }
        drop(file);
        let Self { root, tree, entries, .. } = self;
        let dir = root.directory(parent, || tree.path(entries.as_slice(), parent))?;
        let entry = &entries[entry as usize];
        metadata::set(&Place { dir, base: &entry.name[name] }, entry.kind, entry)
    }

    fn apply(&mut self, entry: Entry) -> Result<(), UnpackError> {
        self.close_file()?;
        self.applied.entries += 1;
        let number = self.entries.len() as u32;
        self.entries.push(entry);
        let step = self.tree.add(self.entries.as_slice(), number).map_err(|refusal| UnpackError::Entry {
            path: String::from_utf8_lossy(&self.entries[number as usize].name).into_owned(),
            reason: refusal.reason,
        })?;
        self.make_implied()?;
        match step {
            Step::Nothing => Ok(()),
            Step::Opaque(directory) => self.mark_opaque(directory),
            Step::Whiteout { parent, name, replaces } => {
                self.clear(number, parent, &name, replaces)?;
                let place = self.place(number, parent, &name)?;
                mknodat(place.dir, place.base, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(|error| self.failed("write whiteout", number, error))
            }
            Step::Put { parent, name, inode, replaces, merges, target } => {
                self.clear(number, parent, &name, replaces)?;
                match target {
                    Some((directory, last)) => self.link(number, parent, &name, inode, (directory, &last)),
                    None => self.put(number, parent, name, inode, merges),
                }
            }
        }
    }

    fn failed(&self, action: &'static str, entry: u32, error: Errno) -> UnpackError {
        UnpackError::io(action, &self.entries[entry as usize].name, error)
    }

    /// Where an entry's name is.
    fn place(&mut self, entry: u32, parent: u32, name: &Range<usize>) -> Result<Place<'_>, UnpackError> {
        let Self { root, tree, entries, .. } = self;
        let dir = root.directory(parent, || tree.path(entries.as_slice(), parent))?;
        Ok(Place { dir, base: &entries[entry as usize].name[name.clone()] })
    }

    /// Makes the directories that the last entry has implied.
    fn make_implied(&mut self) -> Result<(), UnpackError> {
        for at in 0..self.tree.made().len() {
            let directory = self.tree.made()[at];
            let path = self.tree.path(self.entries.as_slice(), directory);
            let fail = |error: Errno| UnpackError::io("make directory", &path, error);
            let (above, base) = tree::split(&path);
            let dir = self.root.resolve(above).map_err(fail)?;
            let place = Place { dir: &dir, base };
            let is_opaque = self.tree.is_opaque(directory);
            if is_opaque {
                // It may take the place of a whiteout.
                match remove(&dir, base) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(fail(error)),
                }
            }
            mkdirat(&dir, base, Mode::from(0o755)).map_err(fail)?;
            if is_opaque {
                metadata::set_opaque(&place, self.options.whiteouts).map_err(fail)?;
            }
        }
        Ok(())
    }

    fn mark_opaque(&mut self, directory: u32) -> Result<(), UnpackError> {
        let whiteouts = self.options.whiteouts;
        let Self { root, tree, entries, .. } = self;
        let dir = root.directory(directory, || tree.path(entries.as_slice(), directory))?;
        metadata::set_opaque(&Place { dir, base: b"." }, whiteouts).map_err(|error| {
            UnpackError::io("mark directory opaque", &tree.path(entries.as_slice(), directory), error)
        })
    }

    /// Takes away what an entry replaces.
    fn clear(&mut self, entry: u32, parent: u32, name: &Range<usize>, is: bool) -> Result<(), UnpackError> {
        if !is {
            return Ok(());
        }
        let place = self.place(entry, parent, name)?;
        remove(place.dir, place.base).map_err(|error| self.failed("replace", entry, error))
    }

    fn put(
        &mut self,
        number: u32,
        parent: u32,
        name: Range<usize>,
        inode: u32,
        merges: bool,
    ) -> Result<(), UnpackError> {
        let opaque = (self.tree.is_opaque(inode) && !merges).then_some(self.options.whiteouts);
        let Self { root, tree, entries, .. } = self;
        let dir = root.directory(parent, || tree.path(entries.as_slice(), parent))?;
        let entry = &entries[number as usize];
        let place = Place { dir, base: &entry.name[name.clone()] };
        let fail = |action| move |error: Errno| UnpackError::io(action, &entry.name, error);
        match entry.kind {
            EntryKind::Dir => {
                if !merges {
                    mkdirat(dir, place.base, Mode::from(0o700)).map_err(fail("make directory"))?;
                }
                if let Some(whiteouts) = opaque {
                    metadata::set_opaque(&place, whiteouts).map_err(fail("mark directory opaque"))?;
                }
            }
            EntryKind::Reg => {
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(dir, place.base, flags, Mode::from(0o600)).map_err(fail("create"))?;
                self.current = Some(Current { file: File::from(file), entry: number, parent, name });
                return Ok(());
            }
            EntryKind::Symlink => {
                symlinkat(entry.link_name.as_slice(), dir, place.base).map_err(fail("make symbolic link"))?;
            }
            EntryKind::Fifo => {
                mknodat(dir, place.base, FileType::Fifo, Mode::from(0o600), 0).map_err(fail("make fifo"))?;
            }
            EntryKind::Char | EntryKind::Block => {
                let is_char = entry.kind == EntryKind::Char;
                let kind = if is_char { FileType::CharacterDevice } else { FileType::BlockDevice };
                // As the kernel takes them, and as a zTOC has them.
                let device = makedev(entry.dev_major as u32, entry.dev_minor as u32);
                mknodat(dir, place.base, kind, Mode::from(0o600), device).map_err(fail("make device"))?;
            }
            // The tree gives each a target.
            EntryKind::HardLink => return Ok(()),
        }
        metadata::set(&place, entry.kind, entry)
    }

    /// Makes another name of an inode of the layer, which the link describes anew.
    fn link(
        &mut self,
        number: u32,
        parent: u32,
        name: &Range<usize>,
        inode: u32,
        (directory, last): (u32, &Range<usize>),
    ) -> Result<(), UnpackError> {
        let path = self.tree.path(self.entries.as_slice(), directory);
        let fail = |error: Errno| UnpackError::io("open target of hard link", &path, error);
        let from = self.root.resolve(&path).map_err(fail)?;
        let Self { root, tree, entries, .. } = self;
        let dir = root.directory(parent, || tree.path(entries.as_slice(), parent))?;
        let entry = &entries[number as usize];
        let place = Place { dir, base: &entry.name[name.clone()] };
        linkat(&from, &entry.link_name[last.clone()], place.dir, place.base, AtFlags::empty())
            .map_err(|error| UnpackError::io("make hard link", &entry.name, error))?;
        let kind = tree.kind(entries.as_slice(), inode);
        metadata::set(&place, kind, entry)
    }
}

/// Gives `directories` of the layer at `dest`, as [`Applied::implied`] lists them, the attributes they have in the
/// nearest of the layers below (`parents`, nearest first). What is not there below stays as it is.
pub fn inherit(dest: &Path, directories: &[Vec<u8>], below: &Below) -> Result<(), UnpackError> {
    let root = Root::open(dest)
        .map_err(|error| UnpackError::io("open", dest.as_os_str().as_encoded_bytes(), error))?;
    inherit_in(&root, directories, below)
}

fn inherit_in(root: &Root, directories: &[Vec<u8>], below: &Below) -> Result<(), UnpackError> {
    let mut absent: Option<&[u8]> = None;
    for path in directories {
        // Those in a directory come behind it.
        if absent.and_then(|above| path.strip_prefix(above)).is_some_and(|rest| rest.starts_with(b"/")) {
            continue;
        }
        let Some(attributes) = below.directory(path)? else {
            absent = Some(path);
            continue;
        };
        let fail = |error: Errno| UnpackError::io("copy attributes of the directory below", path, error);
        let dir = root.resolve(path).map_err(fail)?;
        metadata::describe(&Place { dir: &dir, base: b"." }, &attributes).map_err(fail)?;
    }
    Ok(())
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
        let Some(Current { file, entry, .. }) = &mut self.current else { return Ok(()) };
        let name = &self.entries[*entry as usize].name;
        file.write_all(bytes).map_err(|error| UnpackError::io("write", name, error))?;
        self.in_hole = false;
        self.applied.bytes += bytes.len() as u64;
        Ok(())
    }

    fn hole(&mut self, length: u64) -> Result<(), UnpackError> {
        let Some(Current { file, entry, .. }) = &mut self.current else { return Ok(()) };
        // Holes of one file are together shorter than the file, which is shorter than 2^63.
        self.in_hole = true;
        let moved = file.seek(SeekFrom::Current(length.cast_signed()));
        moved.map(drop).map_err(|error| UnpackError::io("write", &self.entries[*entry as usize].name, error))
    }
}
