//! The layers of the connection: which tree has which slot, and what the root directory shows.
//!
//! A [`Forest`] owns the trees. The table of slots is in the journal, which outlives the process; a slot of an earlier
//! process is *awaited* until its tree is attached again, and requests for it wait so long.
//!
//! What must always hold: a slot is in the journal before its tree is here, and its tree is gone before it leaves the
//! journal. No lock is held while a tree is asked or a reply is answered.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;

use super::ids::{NodeId, Slot};
use super::reply::Reply;
use super::tree::Tree;
use super::values::Attr;

/// A request that came before its layer was attached.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) request: Vec<u8>,
    pub(crate) reply: Reply,
}

/// What a slot has.
enum InSlot {
    Tree(Arc<dyn Tree>),
    Awaited(Vec<Parked>),
}

/// What is found for a slot.
pub(crate) enum Found {
    Tree(Arc<dyn Tree>),
    /// The layer is not attached yet.
    Awaited,
    /// No layer has the slot, or has it any more.
    Nothing,
}

/// All layers.
#[derive(Default)]
pub(crate) struct Forest(RwLock<Layers>);

#[derive(Default)]
struct Layers {
    places: BTreeMap<Slot, (Box<[u8]>, InSlot)>,
    names: HashMap<Box<[u8]>, Slot>,
}

impl std::fmt::Debug for Forest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.read().places.keys()).finish()
    }
}

impl Forest {
    /// One with the slots that an earlier process had.
    pub(crate) fn awaiting(slots: Vec<(Slot, Vec<u8>)>) -> Self {
        let forest = Self::default();
        let mut layers = forest.0.write();
        for (slot, name) in slots {
            layers.put(slot, name.into(), InSlot::Awaited(Vec::new()));
        }
        drop(layers);
        forest
    }

    /// Gives a slot its tree. The requests that have waited for it are the caller's to answer.
    pub(crate) fn attach(&self, slot: Slot, name: &[u8], tree: Arc<dyn Tree>) -> Vec<Parked> {
        match self.0.write().put(slot, name.into(), InSlot::Tree(tree)) {
            Some(InSlot::Awaited(parked)) => parked,
            _ => Vec::new(),
        }
    }

    /// Takes a slot away. The requests that have waited for it are the caller's to answer.
    pub(crate) fn detach(&self, slot: Slot) -> Vec<Parked> {
        let mut layers = self.0.write();
        let Some((name, place)) = layers.places.remove(&slot) else { return Vec::new() };
        layers.names.remove(&name);
        match place {
            InSlot::Awaited(parked) => parked,
            InSlot::Tree(_) => Vec::new(),
        }
    }

    /// Gives the slot's name away: nobody finds it any more, and who has it goes on. The name.
    pub(crate) fn retire(&self, slot: Slot) -> Option<Vec<u8>> {
        let mut layers = self.0.write();
        let name = layers.places.get(&slot)?.0.clone();
        layers.names.remove(&name);
        Some(name.into())
    }

    /// Whether the slot is there, and has lost its name.
    pub(crate) fn is_retired(&self, slot: Slot) -> bool {
        let layers = self.0.read();
        layers.places.get(&slot).is_some_and(|(name, _)| !layers.names.contains_key(name))
    }

    pub(crate) fn find(&self, slot: Slot) -> Found {
        match self.0.read().places.get(&slot) {
            Some((_, InSlot::Tree(tree))) => Found::Tree(Arc::clone(tree)),
            Some((_, InSlot::Awaited(_))) => Found::Awaited,
            None => Found::Nothing,
        }
    }

    pub(crate) fn find_name(&self, name: &[u8]) -> Option<Slot> {
        self.0.read().names.get(name).copied()
    }

    /// Lets a request wait for its layer. It comes back if the layer is not awaited any more.
    pub(crate) fn park(&self, slot: Slot, parked: Parked) -> Option<Parked> {
        match self.0.write().places.get_mut(&slot) {
            Some((_, InSlot::Awaited(waiting))) => {
                waiting.push(parked);
                None
            }
            _ => Some(parked),
        }
    }

    /// Slots whose trees are not attached yet, with their names.
    pub(crate) fn awaited(&self) -> Vec<(Slot, Vec<u8>)> {
        let layers = self.0.read();
        let awaited = layers.places.iter().filter(|(_, (_, place))| matches!(place, InSlot::Awaited(_)));
        awaited.map(|(slot, (name, _))| (*slot, name.to_vec())).collect()
    }

    /// Gives the names of the root directory to `add` until it says `false`. A place in the listing is made of the slot's
    /// number, so it means the same when layers have come and gone. A layer that is awaited has no attributes yet.
    pub(crate) fn list(&self, from: u64, mut add: impl FnMut(&[u8], NodeId, Option<Attr>, u64) -> bool) {
        /// Places of `.` and `..`.
        const DOTS: u64 = 2;
        for (next, name) in [(1, &b"."[..]), (2, b"..")] {
            if from < next && !add(name, NodeId::ROOT, None, next) {
                return;
            }
        }
        let after = Slot::new(u32::try_from(from.saturating_sub(DOTS)).unwrap_or(u32::MAX));
        let places = {
            let layers = self.0.read();
            let rest = layers.places.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
            let copied = rest.map(|(slot, (name, place))| {
                let tree = match place {
                    InSlot::Tree(tree) => Some(Arc::clone(tree)),
                    InSlot::Awaited(_) => None,
                };
                (*slot, name.clone(), tree)
            });
            copied.collect::<Vec<_>>()
        };
        for (slot, name, tree) in places {
            let attr = tree.and_then(|tree| tree.attr(NodeId::TOP).ok());
            let next = u64::from(slot.number()) + DOTS;
            if !add(&name, NodeId::new(slot, NodeId::TOP), attr, next) {
                return;
            }
        }
    }
}

impl Layers {
    /// Returns what the slot had.
    fn put(&mut self, slot: Slot, name: Box<[u8]>, place: InSlot) -> Option<InSlot> {
        self.names.insert(name.clone(), slot);
        self.places.insert(slot, (name, place)).map(|(_, place)| place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_goes_on_where_it_was_though_layers_come_and_go() {
        let slots = [1, 2, 5].map(|number| (Slot::new(number), format!("layer{number}").into_bytes()));
        let forest = Forest::awaiting(slots.to_vec());
        let names = |from, count: usize| {
            let mut all = Vec::new();
            forest.list(from, |name, _, _, next| {
                let fits = all.len() < count;
                if fits {
                    all.push((String::from_utf8(name.to_vec()).unwrap(), next));
                }
                fits
            });
            all
        };
        let first = names(0, 4);
        let only = |all: &[(String, u64)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(only(&first), [".", "..", "layer1", "layer2"]);
        assert!(forest.detach(Slot::new(1)).is_empty());
        assert_eq!(only(&names(first[3].1, 9)), ["layer5"]);
        assert_eq!(only(&names(1, 1)), [".."]);
        assert_eq!(forest.awaited().len(), 2);
    }
}
