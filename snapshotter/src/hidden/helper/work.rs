//! What a helper process is asked to do, and how it is said on a pipe: the length of the message, then words with a NUL behind
//! each. The answer is an error number, 0 for none.
//!
//! Pure. What must always hold: no bytes panic; what is not understood is no work.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::idmap::IdMaps;

/// Longest message, in bytes. A piece of a pack has some thousand ranges at most.
const LONGEST: u32 = 4 << 20;

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Mounts an image that the connection serves.
    MountImage {
        /// The image's file on the hidden mount.
        image: PathBuf,
        /// An existing directory.
        mountpoint: PathBuf,
        /// Bytes that the kernel reads ahead at most; a page or less is none.
        read_ahead: u32,
    },
    /// Shows a tree that the connection serves at another place, too.
    Bind {
        /// The tree's directory on the hidden mount.
        tree: PathBuf,
        /// An existing directory.
        mountpoint: PathBuf,
    },
    /// Takes a mount out of the directory tree.
    Detach {
        /// The mount.
        mountpoint: PathBuf,
    },
    /// Teaches the kernel which operations the connection does not have.
    Prime {
        /// The hidden mount.
        mountpoint: PathBuf,
    },
    /// Makes the kernel know what a path names.
    LookUp(Place),
    /// Makes the kernel know the names in a directory.
    List(Place),
    /// Makes the kernel read ranges of files.
    Fill {
        /// The mount.
        mountpoint: PathBuf,
        /// The files.
        files: Vec<Ranges>,
    },
    /// Makes the kernel forget the content of all files of a mount.
    Forget {
        /// The mount.
        mountpoint: PathBuf,
    },
    /// Shows a layer at another place, with the ids of a user namespace.
    ShowMapped {
        /// The layer's directory.
        source: PathBuf,
        /// An existing directory.
        mountpoint: PathBuf,
        /// The ids.
        maps: Box<IdMaps>,
    },
}

/// Ranges of a file in a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Path of the file, without a leading slash.
    pub path: Vec<u8>,
    /// Offset and length of each, in bytes.
    pub ranges: Vec<(u64, u64)>,
}

/// Something in a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The mount.
    pub mountpoint: PathBuf,
    /// Path in it, without a leading slash; empty for its root.
    pub path: Vec<u8>,
}

impl fmt::Display for Work {
    /// For the log: what is done, and where. Of a file not which ranges.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |place: &Place| place.mountpoint.join(Path::new(OsStr::from_bytes(&place.path)));
        match self {
            Self::MountImage { image, mountpoint, .. } => {
                write!(f, "mount {} on {}", image.display(), mountpoint.display())
            }
            Self::Bind { tree, mountpoint } => {
                write!(f, "show {} at {}", tree.display(), mountpoint.display())
            }
            Self::Detach { mountpoint } => write!(f, "unmount {}", mountpoint.display()),
            Self::Prime { mountpoint } => write!(f, "try the operations of {}", mountpoint.display()),
            Self::LookUp(at) => write!(f, "look up {}", place(at).display()),
            Self::List(at) => write!(f, "list {}", place(at).display()),
            Self::Fill { mountpoint, files } => {
                write!(f, "read {} files of {}", files.len(), mountpoint.display())
            }
            Self::ShowMapped { source, mountpoint, .. } => {
                write!(f, "show {} at {} with other owners", source.display(), mountpoint.display())
            }
            Self::Forget { mountpoint } => write!(f, "drop the pages of {}", mountpoint.display()),
        }
    }
}

impl Work {
    fn words(&self) -> Vec<Vec<u8>> {
        let path = |path: &Path| path.as_os_str().as_bytes().to_vec();
        let word = |word: &str| word.as_bytes().to_vec();
        let at = |verb: &str, place: &Place| vec![word(verb), path(&place.mountpoint), place.path.clone()];
        match self {
            Self::MountImage { image, mountpoint, read_ahead } => {
                vec![word("mount-image"), path(image), path(mountpoint), word(&read_ahead.to_string())]
            }
            Self::Bind { tree, mountpoint } => vec![word("bind"), path(tree), path(mountpoint)],
            Self::Detach { mountpoint } => vec![word("detach"), path(mountpoint)],
            Self::Prime { mountpoint } => vec![word("prime"), path(mountpoint)],
            Self::LookUp(place) => at("look-up", place),
            Self::List(place) => at("list", place),
            Self::Fill { mountpoint, files } => {
                let mut words = vec![word("fill"), path(mountpoint)];
                for file in files {
                    words.extend([file.path.clone(), word(&file.ranges.len().to_string())]);
                    let numbers = file.ranges.iter().flat_map(|(offset, length)| [offset, length]);
                    words.extend(numbers.map(|number| word(&number.to_string())));
                }
                words
            }
            Self::Forget { mountpoint } => vec![word("forget"), path(mountpoint)],
            Self::ShowMapped { source, mountpoint, maps } => {
                let ids = [&maps.users, &maps.groups].map(|map| word(&map.to_string()));
                [word("show-mapped"), path(source), path(mountpoint)].into_iter().chain(ids).collect()
            }
        }
    }

    fn parse(words: &[&[u8]]) -> Option<Self> {
        let path = |word: &[u8]| PathBuf::from(OsString::from_vec(word.to_vec()));
        let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<u64>().ok();
        let map = |word: &[u8]| std::str::from_utf8(word).ok()?.parse().ok();
        let place =
            |mountpoint: &[u8], inside: &[u8]| Place { mountpoint: path(mountpoint), path: inside.to_vec() };
        let (verb, rest) = words.split_first()?;
        Some(match (*verb, rest) {
            (b"mount-image", &[image, mountpoint, read_ahead]) => Self::MountImage {
                image: path(image),
                mountpoint: path(mountpoint),
                read_ahead: u32::try_from(number(read_ahead)?).ok()?,
            },
            (b"bind", &[tree, mountpoint]) => Self::Bind { tree: path(tree), mountpoint: path(mountpoint) },
            (b"detach", &[mountpoint]) => Self::Detach { mountpoint: path(mountpoint) },
            (b"prime", &[mountpoint]) => Self::Prime { mountpoint: path(mountpoint) },
            (b"look-up", &[mountpoint, inside]) => Self::LookUp(place(mountpoint, inside)),
            (b"list", &[mountpoint, inside]) => Self::List(place(mountpoint, inside)),
            (b"fill", &[mountpoint, ref rest @ ..]) => {
                let (mut rest, mut files) = (rest, Vec::new());
                while let [inside, count, more @ ..] = rest {
                    let numbers = usize::try_from(number(count)?).ok()?.checked_mul(2)?;
                    let (numbers, behind) = more.split_at_checked(numbers)?;
                    let ranges =
                        numbers.chunks_exact(2).map(|pair| Some((number(pair[0])?, number(pair[1])?)));
                    files.push(Ranges { path: inside.to_vec(), ranges: ranges.collect::<Option<_>>()? });
                    rest = behind;
                }
                rest.is_empty().then_some(())?;
                Self::Fill { mountpoint: path(mountpoint), files }
            }
            (b"forget", &[mountpoint]) => Self::Forget { mountpoint: path(mountpoint) },
            (b"show-mapped", &[source, mountpoint, users, groups]) => Self::ShowMapped {
                source: path(source),
                mountpoint: path(mountpoint),
                maps: Box::new(IdMaps { users: map(users)?, groups: map(groups)? }),
            },
            _ => return None,
        })
    }

    /// The message.
    pub(super) fn encode(&self) -> io::Result<Vec<u8>> {
        let mut all = vec![0; 4];
        for word in self.words() {
            if word.contains(&0) {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            all.extend_from_slice(&word);
            all.push(0);
        }
        let length = u32::try_from(all.len() - 4).ok().filter(|length| *length <= LONGEST);
        let length = length.ok_or(io::ErrorKind::InvalidInput)?;
        all[..4].copy_from_slice(&length.to_ne_bytes());
        Ok(all)
    }

    /// The next work. `None`: it is not understood.
    ///
    /// # Errors
    /// When the other end is gone.
    pub(super) fn receive(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_ne_bytes(length);
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut message = vec![0; length as usize];
        from.read_exact(&mut message)?;
        let Some((0, message)) = message.split_last().map(|(last, rest)| (*last, rest)) else {
            return Ok(None);
        };
        Ok(Self::parse(&message.split(|byte| *byte == 0).collect::<Vec<_>>()))
    }
}

/// Tells what became of the work.
pub(super) fn answer(to: &mut impl Write, done: &io::Result<()>) -> io::Result<()> {
    let errno = match done {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    };
    to.write_all(&errno.to_ne_bytes())?;
    to.flush()
}

/// A path in a mount, as the kernel wants one that is relative.
pub(crate) fn relative(path: &[u8]) -> &OsStr {
    if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_survives_the_way_through_a_pipe() {
        let (image, mountpoint) = (PathBuf::from("/a b"), PathBuf::from("/c\n"));
        let place = Place { mountpoint: mountpoint.clone(), path: b"usr/\xff lib".to_vec() };
        let root = Place { path: Vec::new(), ..place.clone() };
        let map = |text: &str| text.parse().unwrap();
        let maps = Box::new(IdMaps { users: map("0:100000:65536"), groups: map("0:5:1,1:200000:10") });
        for work in [
            Work::MountImage { image: image.clone(), mountpoint: mountpoint.clone(), read_ahead: 65_536 },
            Work::Bind { tree: image.clone(), mountpoint: mountpoint.clone() },
            Work::Detach { mountpoint: mountpoint.clone() },
            Work::Prime { mountpoint: mountpoint.clone() },
            Work::LookUp(place.clone()),
            Work::List(root),
            Work::Fill {
                mountpoint: mountpoint.clone(),
                files: vec![
                    Ranges { path: place.path, ranges: vec![(0, 4096), (u64::MAX, 1)] },
                    Ranges { path: b"x".to_vec(), ranges: Vec::new() },
                ],
            },
            Work::Fill { mountpoint: mountpoint.clone(), files: Vec::new() },
            Work::ShowMapped { source: image, mountpoint: mountpoint.clone(), maps },
            Work::Forget { mountpoint },
        ] {
            let sent = work.encode().unwrap();
            assert_eq!(Work::receive(&mut &sent[..]).unwrap(), Some(work));
        }
    }

    #[test]
    fn what_is_not_understood_is_no_work() {
        for words in [
            &b"open\0/x\0"[..],
            b"",
            b"bind",
            b"fill\0/x\0y\x001\0",
            b"fill\0/x\0y\x0018446744073709551615\0",
            b"mount-image\0a\0b\0-1\0",
        ] {
            let sent = [&(words.len() as u32).to_ne_bytes(), words].concat();
            assert_eq!(Work::receive(&mut &sent[..]).unwrap(), None, "{words:?}");
        }
        assert!(Work::receive(&mut &u32::MAX.to_ne_bytes()[..]).is_err());
        let nul = Work::Detach { mountpoint: OsString::from_vec(vec![0]).into() };
        assert!(nul.encode().is_err());
    }
}
