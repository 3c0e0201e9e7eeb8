//! Snapshots of user namespaces: the layers below are shown to them with other ids, so that nothing is copied.
//!
//! containerd says the ids by labels, whoever is to change owners. It has changed them itself, in a copy of the image, unless its
//! configuration declares the capability `remap-ids` for this snapshotter, which nobody tells us; `[snapshotter] remap_ids` does.
//! Layers whose owner is the namespace's root already are such a copy, and are left as they are.
//!
//! No state: what is shown is in the mount table, and is made again when it is not what it should be. What must always hold: a
//! snapshot shows its layers with its ids or is refused.

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use soci_core::error::chain as causes;
use tracing::warn;

use super::error::{Error, Result};
use super::overlay::Directories;
use super::record::{Chain, Info, Kind, Labels, SnapshotId};
use super::{Snapshotter, disk, labels};
use crate::idmap::{IdMap, IdMaps};
use crate::mountinfo::Line;
use crate::mounts::detach;

/// What to do when it does not work out.
const HINT: &str = "take remap-ids from the capabilities of [proxy_plugins.soci] in containerd's configuration and set \
    remap_ids = false in [snapshotter]: containerd then copies the image for each map of ids";

impl Snapshotter {
    /// The ids of a snapshot with these labels, if they are to be seen to here.
    pub(super) fn maps(&self, labels: &Labels) -> Result<Option<IdMaps>> {
        if !self.policy.remap_ids || labels.contains_key(labels::TARGET) {
            return Ok(None);
        }
        maps_of(labels)
    }

    /// Whether the layers of a chain are to be shown with other ids: not, if containerd has copied them for that.
    pub(super) fn is_to_be_mapped(&self, chain: &Chain, maps: &IdMaps) -> Result<bool> {
        let Some(nearest) = chain.parents.first() else { return Ok(false) };
        let root = maps.outside((0, 0));
        Ok(root == (0, 0) || self.owner(*nearest)? != root)
    }

    fn owner(&self, id: SnapshotId) -> Result<(u32, u32)> {
        let owner = disk::owner(&self.dirs.fs(id));
        owner.map_err(|source| Error::io(format!("find the owner of snapshot {id}"), source))
    }

    /// Shows all layers of a chain with these ids. Blocking.
    pub(super) fn show_mapped(&self, chain: &Chain, maps: &IdMaps) -> Result<()> {
        let table =
            fs::read("/proc/self/mountinfo").map_err(|source| Error::io("read the mount table", source))?;
        let lines = Line::all(&table);
        for parent in &chain.parents {
            let (layer, shown) = (self.dirs.fs(*parent), self.dirs.mapped_layer(chain.id, *parent));
            // The last one on a directory is what it shows.
            let on = |point: &Path| lines.iter().rev().find(|line| line.mountpoint == point);
            if shows(on(&shown), on(&layer), *parent) {
                continue;
            }
            if on(&shown).is_some() {
                detach(&shown).map_err(|source| Error::io(format!("unmount {}", shown.display()), source))?;
            }
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&shown);
            made.map_err(|source| Error::io(format!("make {}", shown.display()), source))?;
            let done = self.node.mounts().show_mapped(&layer, &shown, maps);
            done.map_err(|error| Error::FailedPrecondition(format!("{}: {HINT}", causes(&error))))?;
        }
        Ok(())
    }

    /// Takes away what is shown to a snapshot that needs it no more.
    pub(super) fn hide_mapped(&self, id: SnapshotId) {
        let mapped = self.dirs.mapped(id);
        if fs::symlink_metadata(&mapped).is_ok()
            && let Err(error) = disk::discard(&mapped)
        {
            warn!(path = %mapped.display(), %error, "layers with other ids stay mounted until the snapshot is removed");
        }
    }

    /// Says once that containers may see nobody's files, if containerd has left the ids to us and we do not map them.
    pub(super) fn warn_of_unmapped(&self, key: &str, chain: &Chain, labels: &Labels) {
        if self.policy.remap_ids || labels.contains_key(labels::TARGET) {
            return;
        }
        let Ok(Some(maps)) = maps_of(labels) else { return };
        let Some(nearest) = chain.parents.first() else { return };
        let copied = self.owner(*nearest).is_ok_and(|owner| owner == maps.outside((0, 0)));
        if !copied && !self.warned_of_ids.swap(true, Ordering::Relaxed) {
            warn!(
                key,
                "a container with a user namespace has layers with the owners of the image: if [proxy_plugins.soci] in containerd's \
                 configuration has the capability remap-ids, set remap_ids = true in [snapshotter] of this daemon's"
            );
        }
    }
}

/// What an earlier process has shown to snapshots that are still there stays: the mounts that it has told of may be made now.
pub(super) fn retain_strange(
    dirs: &Directories,
    points: impl Iterator<Item = PathBuf>,
    snapshots: &[(SnapshotId, Info)],
) -> Vec<PathBuf> {
    let is_user = |info: &Info| info.kind != Kind::Committed && info.labels.contains_key(labels::UIDS);
    let users: HashSet<_> =
        snapshots.iter().filter(|(_, info)| is_user(info)).map(|(id, _)| dirs.mapped(*id)).collect();
    points.filter(|point| !point.ancestors().any(|above| users.contains(above))).collect()
}

fn maps_of(labels: &Labels) -> Result<Option<IdMaps>> {
    let map = |label: &str| -> Result<Option<IdMap>> {
        let parsed = labels.get(label).map(|text| text.parse());
        parsed.transpose().map_err(|error| Error::InvalidArgument(format!("label {label}: {error}")))
    };
    match (map(labels::UIDS)?, map(labels::GIDS)?) {
        (Some(users), Some(groups)) => Ok(Some(IdMaps { users, groups })),
        (None, None) => Ok(None),
        _ => Err(Error::InvalidArgument(format!("{} and {} go together", labels::UIDS, labels::GIDS))),
    }
}

/// Whether a mount shows the layer `id` as it is now: a mount of its own, or a directory.
fn shows(mount: Option<&Line<'_>>, layer: Option<&Line<'_>>, id: SnapshotId) -> bool {
    match (mount, layer) {
        (Some(mount), Some(layer)) => (mount.device, &mount.root) == (layer.device, &layer.root),
        (Some(mount), None) => mount.root.ends_with(format!("{id}/fs")),
        (None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn both_maps_are_said_or_none() {
        let labels = |pairs: &[(&str, &str)]| {
            maps_of(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        let one = "0:100000:65536";
        assert_eq!(labels(&[]).unwrap(), None);
        let maps = labels(&[(labels::UIDS, one), (labels::GIDS, "0:5:1,1:200000:10")]).unwrap().unwrap();
        assert_eq!(maps.outside((0, 1)), (100_000, 200_000));
        for wrong in [&[(labels::UIDS, one)][..], &[(labels::UIDS, one), (labels::GIDS, "x")]] {
            assert!(matches!(labels(wrong), Err(Error::InvalidArgument(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_mount_that_shows_the_layer_as_it_is_stays() {
        let table = b"40 1 0:40 / /s/5/fs ro - erofs /r/hidden/i1 ro\n\
            41 1 0:40 / /s/9/mapped/5/fs ro,idmapped - erofs /r/hidden/i1 ro\n\
            42 1 0:39 / /s/8/mapped/5/fs ro,idmapped - erofs /r/hidden/i1 ro\n\
            43 1 8:1 /var/s/6/fs /s/9/mapped/6/fs ro,idmapped - ext4 /dev/sda rw\n";
        let lines = Line::all(table);
        let [layer, same, dead, directory] = &lines[..] else { panic!("four lines") };
        assert!(shows(Some(same), Some(layer), SnapshotId(5)));
        assert!(!shows(Some(dead), Some(layer), SnapshotId(5)), "the layer was mounted anew");
        assert!(!shows(Some(same), None, SnapshotId(5)), "the layer is not mounted any more");
        assert!(shows(Some(directory), None, SnapshotId(6)) && !shows(Some(directory), None, SnapshotId(5)));
        assert!(!shows(None, Some(layer), SnapshotId(5)));
    }

    #[test]
    fn what_a_snapshot_still_needs_is_not_strange() {
        let dirs = Directories::new("/s".into());
        let now = SystemTime::now();
        let snapshot = |id: u64, kind, label: &str| {
            let labels = Labels::from([(label.to_owned(), "0:1:1".to_owned())]);
            let info = Info { name: id.to_string(), parent: None, kind, labels, created: now, updated: now };
            (SnapshotId(id), info)
        };
        let snapshots = [
            snapshot(1, Kind::Active, labels::UIDS),
            snapshot(2, Kind::Committed, labels::UIDS),
            snapshot(3, Kind::View, "other"),
        ];
        let points =
            ["/s/1/mapped/7/fs", "/s/1/fs", "/s/2/mapped/7/fs", "/s/3/mapped/7/fs", "/s/4/mapped/7/fs"];
        let strange = retain_strange(&dirs, points.iter().map(PathBuf::from), &snapshots);
        assert_eq!(strange, points[1..].iter().map(PathBuf::from).collect::<Vec<_>>());
    }
}
