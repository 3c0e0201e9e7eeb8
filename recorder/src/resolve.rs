//! Which layer a path of the merged root file system comes from.
//!
//! Owns descriptors of the layer directories and the answers given so far. The merged view has already applied
//! whiteouts and opaque directories, so a path that it shows comes from the topmost layer that holds it as a file of
//! its own, reached through real directories only.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};

/// Where a file of a recording comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The layer of this index, the lowest being 0.
    Layer(u32),
    /// A directory that is no image.
    Directory,
}

impl Origin {
    /// Index of the layer, if it is one.
    pub fn layer(self) -> Option<u32> {
        match self {
            Self::Layer(at) => Some(at),
            Self::Directory => None,
        }
    }
}

/// Finds layers of paths.
#[derive(Debug)]
pub struct Resolver {
    /// None when a directory is recorded.
    layers: Option<Vec<OwnedFd>>,
    known: HashMap<Arc<[u8]>, Option<Origin>>,
}

impl Resolver {
    /// `layers` are the layer directories in overlayfs form, lowest first, as in the image manifest.
    pub fn new(layers: &[PathBuf]) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let layers =
            layers.iter().map(|dir| openat(CWD, dir, flags, Mode::empty())).collect::<Result<_, _>>()?;
        Ok(Self { layers: Some(layers), known: HashMap::new() })
    }

    /// For the files of a directory that is no image: the capture has already said that they are its own.
    pub fn of_directory() -> Self {
        Self { layers: None, known: HashMap::new() }
    }

    /// Is it for a directory that is no image?
    pub fn is_of_directory(&self) -> bool {
        self.layers.is_none()
    }

    /// What a path (no leading slash) comes from; `None` when it is not a file of the image.
    pub fn origin(&mut self, path: &Arc<[u8]>) -> Option<Origin> {
        let Some(layers) = &self.layers else { return Some(Origin::Directory) };
        if let Some(&origin) = self.known.get(path) {
            return origin;
        }
        let origin =
            (0..layers.len()).rev().find(|&at| holds(&layers[at], path)).map(|at| Origin::Layer(at as u32));
        self.known.insert(Arc::clone(path), origin);
        origin
    }
}

fn holds(layer: &OwnedFd, path: &[u8]) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(layer, path, flags, Mode::empty(), resolve)
        .and_then(fstat)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_topmost_layer_with_the_file_itself_wins() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["0", "1", "2"].iter().map(|name| dir.path().join(name)).collect();
        for (layer, path) in [(0, "a/x"), (0, "a/y"), (0, "lib/z"), (1, "a/x"), (2, "b/y"), (2, "usr/z")] {
            let file = layers[layer].join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, path).unwrap();
        }
        std::os::unix::fs::symlink("usr", layers[2].join("lib")).unwrap();
        let mut resolver = Resolver::new(&layers).unwrap();
        let mut layer = |path: &str| resolver.origin(&Arc::from(path.as_bytes())).and_then(Origin::layer);
        assert_eq!(layer("a/x"), Some(1));
        assert_eq!(layer("a/y"), Some(0));
        assert_eq!(layer("b/y"), Some(2));
        assert_eq!(layer("lib/z"), Some(0), "not through the link of layer 2");
        assert_eq!(layer("a"), None);
        assert_eq!(layer("../0/a/x"), None);
        assert_eq!(layer("none"), None);
    }
}
