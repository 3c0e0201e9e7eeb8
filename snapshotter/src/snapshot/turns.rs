//! One at a time for each snapshot: who comes second finds what the first has done.
//!
//! Owns the locks; one that nobody holds or waits for is forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};

use super::record::SnapshotId;

/// The locks by snapshot.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<SnapshotId, Weak<Turn<()>>>>);

impl Turns {
    /// Waits until it is ours; it ends with the result.
    pub(super) async fn of(&self, id: SnapshotId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock();
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(&id).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let turn = Arc::new(Turn::new(()));
                turns.insert(id, Arc::downgrade(&turn));
                turn
            })
        };
        turn.lock_owned().await
    }
}
