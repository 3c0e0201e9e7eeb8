//! Which lazy layers are being served, which whole ones are not to be used, and how many layers came which way.
//!
//! Owns what is known of each layer's mount. The mounts outlive the process; who forgets one unmounts it.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::record::SnapshotId;
use super::unlabelled::UnlabelledStats;
use crate::mounts::Mounted;
use crate::telemetry::stats::Counter;

/// What became of the layers that were asked for, since the process started.
#[derive(Debug, Default)]
pub struct SnapshotStats {
    /// Layers mounted lazily.
    pub lazy_layers: Counter,
    /// Layers pulled, verified and unpacked by the snapshotter.
    pub whole_layers: Counter,
    /// Layers left to the container runtime.
    pub runtime_layers: Counter,
    /// Layers that should have been lazy and could not be.
    pub lazy_failures: Counter,
    /// Layers that could not be pulled or unpacked here.
    pub whole_failures: Counter,
    /// Lazy layers that could not be served again after a restart (each attempt counts).
    pub restore_failures: Counter,
    /// Layers that could not be lazy, because the client did not say which they are.
    pub unlabelled: UnlabelledStats,
}

/// Lazy layers by how they are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    /// Mounted, and served.
    pub mounted: usize,
    /// Mounted by an earlier process, and not served yet: readers wait.
    pub waiting: usize,
    /// Not mounted: nobody has wanted them since the start.
    pub absent: usize,
    /// They could not be served: readers get errors.
    pub dead: usize,
}

/// The lazy layers by snapshot.
#[derive(Debug, Default)]
pub(super) struct Serving {
    layers: Mutex<HashMap<SnapshotId, State>>,
    /// Those of earlier processes that no container has used since.
    unused: Mutex<HashSet<SnapshotId>>,
}

#[derive(Debug)]
enum State {
    /// Not mounted yet: nobody has wanted it since the node has started.
    Absent,
    /// An earlier process has mounted it, under this name. Its readers wait.
    Left(String),
    /// It is served.
    Mounted(Mounted),
    /// A whole layer whose files were not all on the disk, perhaps, when the machine went down.
    Doubtful,
    /// Should be mounted, but could not be. Under this name it still is, and readers get errors.
    Dead(Option<String>),
}

/// What is to be done for a layer, so that it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is to be mounted.
    Mount,
    /// It is mounted under this name, and is to be served.
    Service(String),
    /// Its files are to be pulled again.
    Files,
}

impl Serving {
    pub(super) fn mounted(&self, id: SnapshotId, mounted: Mounted) {
        self.layers.lock().insert(id, State::Mounted(mounted));
    }

    /// A lazy layer of an earlier process, mounted under this name or not at all.
    pub(super) fn earlier(&self, id: SnapshotId, left: Option<String>) {
        self.layers.lock().insert(id, left.map_or(State::Absent, State::Left));
        self.unused.lock().insert(id);
    }

    /// The files of this whole layer are not to be used.
    pub(super) fn doubtful(&self, id: SnapshotId) {
        self.layers.lock().insert(id, State::Doubtful);
    }

    /// It is not mounted any more.
    pub(super) fn absent(&self, id: SnapshotId) {
        self.layers.lock().insert(id, State::Absent);
    }

    /// Remembers that a container uses these layers, the nearest first. Gives the nearest that is lazy, if nobody has used it since
    /// a restart.
    pub(super) fn begin_use(&self, parents: &[SnapshotId]) -> Option<SnapshotId> {
        let layers = self.layers.lock();
        let is_lazy = |id: &&SnapshotId| !matches!(layers.get(id), None | Some(State::Doubtful));
        let nearest = parents.iter().find(is_lazy)?;
        self.unused.lock().remove(nearest).then_some(*nearest)
    }

    /// It could not be served.
    pub(super) fn dead(&self, id: SnapshotId) {
        let mut layers = self.layers.lock();
        let left = match layers.remove(&id) {
            Some(State::Left(name)) => Some(name),
            Some(State::Dead(name)) => name,
            _ => None,
        };
        layers.insert(id, State::Dead(left));
    }

    /// What is missing until a layer is served. `None`: nothing, or it is none of ours.
    pub(super) fn missing(&self, id: SnapshotId) -> Option<Missing> {
        match self.layers.lock().get(&id)? {
            State::Mounted(_) => None,
            State::Left(name) | State::Dead(Some(name)) => Some(Missing::Service(name.clone())),
            State::Absent | State::Dead(None) => Some(Missing::Mount),
            State::Doubtful => Some(Missing::Files),
        }
    }

    pub(super) fn counts(&self) -> Served {
        let mut counts = Served::default();
        for state in self.layers.lock().values() {
            match state {
                State::Mounted(_) => counts.mounted += 1,
                // What is still mounted is tried again, and its readers wait meanwhile.
                State::Left(_) | State::Dead(Some(_)) => counts.waiting += 1,
                // A whole one that is not to be used is brought when it is wanted, too.
                State::Absent | State::Doubtful => counts.absent += 1,
                State::Dead(None) => counts.dead += 1,
            }
        }
        counts
    }

    /// The layer is not ours any more. The caller unmounts it.
    pub(super) fn forget(&self, id: SnapshotId) -> Option<Mounted> {
        self.unused.lock().remove(&id);
        match self.layers.lock().remove(&id)? {
            State::Mounted(mounted) => Some(mounted),
            State::Absent | State::Left(_) | State::Dead(_) | State::Doubtful => None,
        }
    }

    /// All that are mounted by this process. The caller unmounts them.
    pub(super) fn take_all(&self) -> Vec<Mounted> {
        let all = std::mem::take(&mut *self.layers.lock());
        let mounted = all.into_values().map(|state| match state {
            State::Mounted(mounted) => Some(mounted),
            State::Absent | State::Left(_) | State::Dead(_) | State::Doubtful => None,
        });
        mounted.flatten().collect()
    }
}
