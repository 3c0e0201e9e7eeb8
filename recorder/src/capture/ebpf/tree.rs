//! Trees of processes: whom the kernel side tracks, and which of them are recorded.
//!
//! The kernel side keeps the map of tracked processes; here those are entered that run already. A group is one process
//! with all its descendants; containerd's shims begin a new one with each child, so that the runtime, its hooks and
//! the container that it makes are one group, and what is executed in the container later another. That one is told by
//! its mount namespace.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aya::maps::MapError;
use recorder_ebpf::{Event, TRACKED, Tracked};

use super::load::TrackedMap;
use super::{Ebpf, EbpfError};

/// Thread name of every shim of containerd's: `containerd-shim-runc-v2` and the like, cut by the kernel.
pub(super) const SHIM: [u8; 16] = *b"containerd-shim\0";
/// Inode of the pid namespace that is not inside any other (`PROC_PID_INIT_INO` of the kernel).
const INITIAL_NAMESPACE: u64 = 0xefff_fffc;

/// Which tracked processes are recorded. Those that nobody has named are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Members {
    /// The process whose program is the command.
    pub(super) first: u32,
    group: u32,
    /// Inode of a mount namespace; 0 is none.
    namespace: u32,
}

impl Members {
    /// Is this one of them?
    pub(super) fn have(&self, event: &Event) -> bool {
        self.tracked().has(event.tracked())
    }

    /// Are these somebody else? One that starts others may have started some of these.
    pub(super) fn exclude(&self, who: Tracked) -> bool {
        who != Tracked::SEED && !self.tracked().has(who)
    }

    fn tracked(&self) -> Tracked {
        Tracked { group: self.group, namespace: self.namespace }
    }
}

impl Ebpf {
    /// Records a process, which has no children yet, and its descendants; and what we start in its mount namespace from
    /// now on, if that is a container's.
    pub fn follow(&mut self, pid: u32) {
        let first = (pid, Tracked { group: pid, namespace: 0 });
        for (pid, tracked) in [first, (std::process::id(), Tracked::SEED)] {
            if let Err(error) = insert(&mut self.loaded.tracked, pid, tracked) {
                tracing::warn!(%error, pid, "cannot track the process: the recording counts as incomplete");
                self.untracked += 1;
            }
        }
        self.record(Members { first: pid, group: pid, namespace: container_namespace(pid).unwrap_or(0) });
    }

    /// These are meant: the kernel side leaves out all others from now on.
    fn record(&mut self, members: Members) {
        self.members = members;
        if let Err(error) = self.loaded.choose(members.tracked()) {
            tracing::warn!(%error, "what other containers do fills the ring buffer, too");
        }
    }

    /// Records a new container, of which `pid` is the first process: whatever a shim of containerd's started to make it,
    /// and whatever runs in its mount namespace.
    pub fn follow_new(&mut self, pid: u32) {
        let known = self.loaded.tracked.get(&pid, 0).ok().map(|bits| Tracked::from_bits(bits).group);
        // It may have ended already.
        let group = known.or_else(|| self.held.group_of(pid)).unwrap_or(pid);
        self.record(Members { first: pid, group, namespace: container_namespace(pid).unwrap_or(0) });
    }

    /// Records processes that run already, with all their descendants; `whole`: and everything else in the mount
    /// namespace of the first of them.
    pub fn follow_running(&mut self, pids: &[u32], whole: bool) -> Result<(), EbpfError> {
        let Some(&first) = pids.first() else { return Ok(()) };
        let namespace = if whole { container_namespace(first).unwrap_or(0) } else { 0 };
        self.record(Members { first: 0, group: first, namespace });
        let tracked = Tracked { group: first, namespace };
        let map = &mut self.loaded.tracked;
        loop {
            let mut new = false;
            for pid in choose(&running(), pids, namespace) {
                // A shim is none of the container's.
                if map.get(&pid, 0).is_err() {
                    insert(map, pid, tracked)?;
                    new = true;
                    if !Path::new("/proc").join(pid.to_string()).exists() {
                        let _ = map.remove(&pid); // the kernel side may have done it
                    }
                }
            }
            if !new {
                return Ok(());
            }
        }
    }
}

/// Can a process be named by the number that the kernel side uses?
pub(super) fn can_name_processes() -> Result<(), EbpfError> {
    match fs::metadata("/proc/self/ns/pid").map(|namespace| namespace.ino()) {
        Ok(INITIAL_NAMESPACE) => Ok(()),
        _ => Err(EbpfError::PidNamespace),
    }
}

/// Enters the shims that run already; gives the number of those for which there was no room.
pub(super) fn enter_shims(map: &mut TrackedMap) -> u64 {
    let name = SHIM.split(|byte| *byte == 0).next().unwrap_or_default();
    let shims = running().into_values().filter(|process| process.comm == name);
    shims.filter(|process| insert(map, process.pid, Tracked::SEED).is_err()).count() as u64
}

/// A running process.
#[derive(Debug)]
struct Running {
    pid: u32,
    parent: u32,
    comm: Vec<u8>,
}

/// All processes, as far as `/proc` shows them at this moment.
fn running() -> HashMap<u32, Running> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, parse_stat(pid, &stat)?))
    })
    .collect()
}

/// `PID (NAME) STATE PARENT ...`: the name may hold anything.
fn parse_stat(pid: u32, stat: &[u8]) -> Option<Running> {
    let open = stat.iter().position(|byte| *byte == b'(')? + 1;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    let parent = rest.split_whitespace().nth(1)?.parse().ok()?;
    Some(Running { pid, parent, comm: stat.get(open..close)?.to_vec() })
}

/// The processes that are `roots`, descend from them, or are in a mount namespace.
fn choose(running: &HashMap<u32, Running>, roots: &[u32], namespace: u32) -> Vec<u32> {
    let descends = |mut pid: u32| {
        for _ in 0..running.len() {
            if roots.contains(&pid) {
                return true;
            }
            match running.get(&pid) {
                Some(process) => pid = process.parent,
                None => return false,
            }
        }
        false
    };
    let inside = |pid: u32| namespace != 0 && mount_namespace(&pid.to_string()) == Some(namespace);
    running.keys().copied().filter(|&pid| descends(pid) || inside(pid)).collect()
}

/// The mount namespace of a container's process; none when it is the host's, or ours.
fn container_namespace(pid: u32) -> Option<u32> {
    let namespace = mount_namespace(&pid.to_string())?;
    let others = ["self", "1"].map(mount_namespace);
    (!others.contains(&Some(namespace))).then_some(namespace)
}

fn mount_namespace(process: &str) -> Option<u32> {
    fs::metadata(format!("/proc/{process}/ns/mnt")).ok()?.ino().try_into().ok()
}

fn insert(map: &mut TrackedMap, pid: u32, tracked: Tracked) -> Result<(), EbpfError> {
    map.insert(pid, tracked.to_bits(), 0).map_err(|source: MapError| EbpfError::Map { name: TRACKED, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_whatever_processes_call_themselves() {
        let text = [(1, "1 (init) S 0 1"), (7, "7 (a) b) (c) R 1 7"), (8, "8 (x) S 7 7"), (9, "9 (y) S 1 9")];
        let running: HashMap<u32, Running> =
            text.iter().map(|(pid, stat)| (*pid, parse_stat(*pid, stat.as_bytes()).unwrap())).collect();
        assert_eq!(running[&7].comm, b"a) b) (c");
        let mut found = choose(&running, &[7], 0);
        found.sort_unstable();
        assert_eq!(found, [7, 8]);
        assert!(parse_stat(1, b"1 (").is_none() && parse_stat(1, b") 1 (").is_none());
    }

    #[test]
    fn nobody_counts_until_somebody_is_named() {
        let event = |group, namespace| Event { group, namespace, ..Event::default() };
        assert!(!Members::default().have(&event(0, 0)) && !Members::default().have(&event(3, 9)));
        let members = Members { first: 5, group: 3, namespace: 9 };
        assert!(members.have(&event(3, 1)) && members.have(&event(4, 9)) && !members.have(&event(4, 8)));
    }
}
