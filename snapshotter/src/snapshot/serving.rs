//! Which lazy layers are being served, and how many layers came which way.
//!
//! Owns the FUSE mounts: a mount lives exactly as long as its entry here.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::record::SnapshotId;
use crate::layer::FuseMount;
use crate::stats::Counter;

/// What became of the layers that were asked for, since the process started.
#[derive(Debug, Default)]
pub struct Counters {
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
}

/// The lazy layers by snapshot.
#[derive(Debug, Default)]
pub(super) struct Serving {
    layers: Mutex<HashMap<SnapshotId, State>>,
}

#[derive(Debug)]
enum State {
    /// The mount, which ends when this is dropped; and whether nobody has used it since a restart.
    Mounted(FuseMount, bool),
    /// Should be mounted, but could not be.
    Dead,
}

impl Serving {
    pub(super) fn mounted(&self, id: SnapshotId, mount: FuseMount) {
        self.set(id, State::Mounted(mount, false));
    }

    /// The layer is mounted again after a restart.
    pub(super) fn restored(&self, id: SnapshotId, mount: FuseMount) {
        self.set(id, State::Mounted(mount, true));
    }

    /// Remembers that a container uses these layers, the nearest first. Gives the nearest that is lazy, if nobody has used it since
    /// a restart.
    pub(super) fn begin_use(&self, parents: &[SnapshotId]) -> Option<SnapshotId> {
        let mut layers = self.layers.lock();
        let nearest = parents.iter().find(|id| layers.contains_key(id))?;
        match layers.get_mut(nearest) {
            Some(State::Mounted(_, unused)) => std::mem::take(unused).then_some(*nearest),
            _ => None,
        }
    }

    fn set(&self, id: SnapshotId, state: State) {
        let before = self.layers.lock().insert(id, state);
        // Unmounting may take a moment: not under the lock.
        drop(before);
    }

    pub(super) fn dead(&self, id: SnapshotId) {
        self.set(id, State::Dead);
    }

    pub(super) fn is_dead(&self, id: SnapshotId) -> bool {
        matches!(self.layers.lock().get(&id), Some(State::Dead))
    }

    pub(super) fn forget(&self, id: SnapshotId) {
        let before = self.layers.lock().remove(&id);
        drop(before);
    }

    pub(super) fn close(&self) {
        let all = std::mem::take(&mut *self.layers.lock());
        for state in all.into_values() {
            if let State::Mounted(mount, _) = state {
                mount.leave();
            }
        }
    }
}
