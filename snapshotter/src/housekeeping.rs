//! What a daemon does by itself as long as it runs: it gives disk back, and sees to it that the mounts have a keeper.
//!
//! Each loop owns what it remembers, and ends when the daemon is gone. What must always hold: nothing here blocks a thread of the
//! async runtime, and a failure is tried again.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use soci_core::digest::Digest;
use soci_core::error::chain;
use tracing::{debug, info, warn};

use crate::blocking::try_blocking;
use crate::layer::LayerError;
use crate::mounts::Mounts;
use crate::node::Node;
use crate::snapshot::Snapshotter;
use crate::storage::{Limits, Rounds, Sweeper};

/// How often it is looked whether the mounts have a keeper.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// An image that nobody has asked about for this long is not being pulled any more.
const IN_WORK: Duration = Duration::from_secs(30);
/// How often it is looked at least and at most what disk can be given back.
const SWEEP_EVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// How often the disk is measured when nobody asks for room, and how soon again when somebody does.
const MEASURE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(50));

/// Sees to it that the mounts have a keeper.
pub(crate) async fn look_after(mounts: Weak<Mounts>) {
    loop {
        tokio::time::sleep(LOOK_AFTER).await;
        let Some(mounts) = mounts.upgrade() else { return };
        // A panic in there was logged by its thread.
        let _ = try_blocking(move || mounts.look_after()).await;
    }
}

/// Gives the disk back that nobody needs, `keep` after its last use.
pub(crate) async fn sweep(keep: Duration, snapshotter: Weak<Snapshotter>, node: Weak<Node>) {
    let mut sweeper = Sweeper::new(keep, Instant::now());
    loop {
        tokio::time::sleep((keep / 4).clamp(SWEEP_EVERY.0, SWEEP_EVERY.1)).await;
        let (Some(snapshotter), Some(node)) = (snapshotter.upgrade(), node.upgrade()) else { return };
        let swept = try_blocking(move || {
            let needed = match snapshotter.needed() {
                Ok(needed) => needed.and(node.in_work(keep.min(IN_WORK))),
                Err(error) => {
                    warn!(error = chain(&error), "no disk is given back");
                    return sweeper;
                }
            };
            if let Some(swept) = sweeper.sweep(needed, Instant::now()) {
                match node.reclaim(&swept) {
                    Ok((bytes, in_use)) => {
                        sweeper.given_back(in_use);
                        if bytes > 0 {
                            info!(bytes, "disk of layers that nobody needs was given back");
                        }
                    }
                    Err(error) => warn!(error = chain(&error), "not all disk was given back"),
                }
            }
            sweeper
        });
        let Ok(after) = swept.await else { return }; // a panic, which was logged
        sweeper = after;
    }
}

/// Keeps the cache within its limits.
pub(crate) async fn keep_room(limits: Limits, snapshotter: Weak<Snapshotter>, node: Weak<Node>) {
    let Some(room) = node.upgrade().map(|node| node.room()) else { return };
    let mut rounds = Rounds::default();
    loop {
        let (Some(snapshotter), Some(node)) = (snapshotter.upgrade(), node.upgrade()) else { return };
        let kept = try_blocking(move || {
            keep_once(&limits, &mut rounds, &snapshotter, &node);
            rounds
        });
        let Ok(after) = kept.await else { return }; // a panic, which was logged
        rounds = after;
        tokio::time::sleep(MEASURE.1).await;
        // Either is a reason to look.
        let _ = tokio::time::timeout(MEASURE.0, room.wanted()).await;
    }
}

fn keep_once(limits: &Limits, rounds: &mut Rounds, snapshotter: &Snapshotter, node: &Arc<Node>) {
    let room = node.room();
    let mut refused = false;
    let mut measure = || {
        let disk = node.disk()?;
        let (left, reserve) = limits.left(&disk);
        refused |= room.measured(left, reserve);
        Ok::<_, LayerError>((disk, refused))
    };
    let (disk, was_refused) = match measure() {
        Ok(measured) => measured,
        Err(error) => return warn!(error = chain(&error), "the disk of the cache cannot be measured"),
    };
    let idle = rounds.begin(room.round(), Instant::now());
    let goal = limits.goal(&disk, was_refused);
    if goal.is_empty() {
        return;
    }
    let needed: HashSet<Digest> = snapshotter.needed().map(|needed| needed.layers).unwrap_or_default();
    let given = node.make_room(goal, idle, &|layer| needed.contains(layer));
    debug!(given, must = goal.must, may = goal.may, free = disk.free, "cached bytes were given back");
    if given > 0
        && let Err(error) = measure()
    {
        warn!(error = chain(&error), "the disk of the cache cannot be measured");
    }
}
