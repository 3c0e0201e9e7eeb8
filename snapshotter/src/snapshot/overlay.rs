//! What a snapshot is mounted as: a bind of one directory, or an overlay of several.
//!
//! Pure: paths in, mounts out. Nearest parent first, as overlayfs wants its lowerdir list.

use std::fs;
use std::path::{Path, PathBuf};

use super::record::{Chain, Kind, SnapshotId};

/// One mount, as mount(8) would be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `bind` or `overlay`.
    pub kind: &'static str,
    /// The directory to bind; `overlay` for overlays.
    pub source: String,
    /// Options.
    pub options: Vec<String>,
}

/// Where the directories of snapshots are.
#[derive(Debug, Clone)]
pub struct Directories {
    root: PathBuf,
}

impl Directories {
    /// Directories of snapshots live in `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The directory of all of them.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All that belongs to one snapshot.
    pub fn snapshot(&self, id: SnapshotId) -> PathBuf {
        self.root.join(id.to_string())
    }

    /// The layer itself; mountpoint of a lazy layer.
    pub fn fs(&self, id: SnapshotId) -> PathBuf {
        self.snapshot(id).join("fs")
    }

    /// overlayfs's own directory of an active snapshot.
    pub fn work(&self, id: SnapshotId) -> PathBuf {
        self.snapshot(id).join("work")
    }

    /// Where what is below a snapshot is shown with the ids of its user namespace.
    pub fn mapped(&self, id: SnapshotId) -> PathBuf {
        self.snapshot(id).join("mapped")
    }

    /// Where one of the layers below is. The name ends as that of the layer's own directory does: who sees only the end of it in
    /// a mount table knows the layer.
    pub fn mapped_layer(&self, id: SnapshotId, parent: SnapshotId) -> PathBuf {
        self.mapped(id).join(parent.to_string()).join("fs")
    }

    /// How a snapshot is mounted. `userxattr`: overlayfs keeps its marks in `user.*`. `is_mapped`: on its layers as they are shown
    /// with other ids.
    pub fn mounts(&self, chain: &Chain, userxattr: bool, is_mapped: bool) -> Vec<Mount> {
        let layer = |id| if is_mapped { self.mapped_layer(chain.id, id) } else { self.fs(id) };
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let bind = |path, access: &str| {
            vec![Mount {
                kind: "bind",
                source: text(path),
                options: vec![access.to_owned(), "rbind".to_owned()],
            }]
        };
        let writable = chain.kind == Kind::Active;
        match chain.parents.as_slice() {
            [] => bind(self.fs(chain.id), if writable { "rw" } else { "ro" }),
            [parent] if !writable => bind(layer(*parent), "ro"),
            parents => {
                let lower: Vec<_> = parents.iter().map(|id| text(layer(*id))).collect();
                let mut options = Vec::new();
                if writable {
                    options.push(format!("workdir={}", text(self.work(chain.id))));
                    options.push(format!("upperdir={}", text(self.fs(chain.id))));
                }
                options.push(format!("lowerdir={}", lower.join(":")));
                if userxattr {
                    options.push("userxattr".to_owned());
                }
                vec![Mount { kind: "overlay", source: "overlay".to_owned(), options }]
            }
        }
    }
}

/// Whether overlayfs cannot use `trusted.*` attributes: in a user namespace, whose root may not write them.
pub fn needs_userxattr() -> bool {
    // The initial namespace maps all 32 bits onto themselves.
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().ne(["0", "0", "4294967295"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(kind: Kind, parents: &[u64], userxattr: bool) -> Mount {
        let chain =
            Chain { id: SnapshotId(9), kind, parents: parents.iter().map(|id| SnapshotId(*id)).collect() };
        let mut mounts = Directories::new("/r".into()).mounts(&chain, userxattr, false);
        assert_eq!(mounts.len(), 1);
        mounts.remove(0)
    }

    fn mount(kind: &'static str, source: &str, options: &[&str]) -> Mount {
        Mount {
            kind,
            source: source.to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
        }
    }

    #[test]
    fn one_directory_is_a_bind() {
        assert_eq!(mounts(Kind::Active, &[], false), mount("bind", "/r/9/fs", &["rw", "rbind"]));
        assert_eq!(mounts(Kind::View, &[], false), mount("bind", "/r/9/fs", &["ro", "rbind"]));
        assert_eq!(mounts(Kind::View, &[4], true), mount("bind", "/r/4/fs", &["ro", "rbind"]));
    }

    #[test]
    fn layers_with_other_ids_take_the_place_of_the_layers() {
        let mapped = |kind, parents: &[u64]| {
            let parents = parents.iter().map(|id| SnapshotId(*id)).collect();
            Directories::new("/r".into()).mounts(&Chain { id: SnapshotId(9), kind, parents }, false, true)
        };
        let active = ["workdir=/r/9/work", "upperdir=/r/9/fs", "lowerdir=/r/9/mapped/4/fs:/r/9/mapped/2/fs"];
        assert_eq!(mapped(Kind::Active, &[4, 2]), [mount("overlay", "overlay", &active)]);
        assert_eq!(mapped(Kind::View, &[4]), [mount("bind", "/r/9/mapped/4/fs", &["ro", "rbind"])]);
        assert_eq!(mapped(Kind::Active, &[]), [mount("bind", "/r/9/fs", &["rw", "rbind"])]);
    }

    #[test]
    fn several_are_an_overlay_with_the_nearest_parent_first() {
        let active = ["workdir=/r/9/work", "upperdir=/r/9/fs", "lowerdir=/r/4/fs"];
        assert_eq!(mounts(Kind::Active, &[4], false), mount("overlay", "overlay", &active));
        let view = ["lowerdir=/r/4/fs:/r/2/fs:/r/1/fs", "userxattr"];
        assert_eq!(mounts(Kind::View, &[4, 2, 1], true), mount("overlay", "overlay", &view));
    }
}
