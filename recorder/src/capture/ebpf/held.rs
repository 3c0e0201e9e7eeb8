//! Events that are kept until it is known which of them are of the image.
//!
//! Owns them, by who they are of: one container that reads much takes no room from another. What must always hold: an
//! event is kept, or counted as lost of whom it was.

use std::collections::HashMap;

use recorder_ebpf::{Event, Tracked};

/// Events of one group of processes; each is 72 bytes.
const OF_ONE: usize = 250_000;
/// Events of all together.
const OF_ALL: usize = 4 * OF_ONE;

/// The events.
#[derive(Debug, Default)]
pub(super) struct Held {
    events: Vec<Event>,
    by_group: HashMap<u32, usize>,
    lost: HashMap<u64, u64>,
}

impl Held {
    pub(super) fn keep(&mut self, event: &Event) {
        let of_group = self.by_group.entry(event.group).or_default();
        if *of_group < OF_ONE && self.events.len() < OF_ALL {
            *of_group += 1;
            self.events.push(*event);
        } else {
            *self.lost.entry(event.tracked().to_bits()).or_default() += 1;
        }
    }

    /// All of them, in the order in which they came.
    pub(super) fn take(&mut self) -> Vec<Event> {
        self.by_group.clear();
        std::mem::take(&mut self.events)
    }

    /// In which group a process is of which something is kept.
    pub(super) fn group_of(&self, pid: u32) -> Option<u32> {
        self.events.iter().find(|event| event.tgid == pid).map(|event| event.group)
    }

    /// What was lost, and of whom.
    pub(super) fn lost(&self) -> impl Iterator<Item = (Tracked, u64)> {
        self.lost.iter().map(|(bits, count)| (Tracked::from_bits(*bits), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_reads_much_takes_no_room_from_another() {
        let event = |group| Event { group, tgid: group + 100, ..Event::default() };
        let mut held = Held::default();
        for _ in 0..OF_ONE + 3 {
            held.keep(&event(1));
        }
        held.keep(&event(2));
        assert_eq!(held.lost().collect::<Vec<_>>(), [(Tracked { group: 1, namespace: 0 }, 3)]);
        assert_eq!((held.group_of(102), held.group_of(7)), (Some(2), None));
        assert_eq!(held.take().len(), OF_ONE + 1);
        assert!(held.take().is_empty());
    }
}
