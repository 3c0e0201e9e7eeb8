//! Node ids of the hidden connection: which layer, and which object in it.
//!
//! An id is computed, never looked up: the slot of the layer in the upper half, the index in the layer in the lower half.
//! So two processes that have the same table of slots give the same ids. No state lives here.
//!
//! What must always hold: a slot names one layer for as long as the connection lives. The kernel keeps node ids for as
//! long as it likes, so a slot that is used twice would give one layer's pages to another.

/// Place of a layer on the connection. Slot 0 is the connection's own: the root directory and the probe file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(u32);

impl Slot {
    /// The slot of the root directory.
    pub(crate) const OWN: Self = Self(0);

    /// The slot with this number.
    pub(crate) const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// An object of the connection, as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId {
    /// The layer.
    pub slot: Slot,
    /// The object in the layer. A layer's own root has [`NodeId::TOP`].
    pub index: u32,
}

impl NodeId {
    /// Index of the root of a layer, which may be a directory or one file.
    pub const TOP: u32 = 1;
    /// The root directory of the connection. The protocol fixes its id as 1.
    pub(crate) const ROOT: Self = Self { slot: Slot::OWN, index: Self::TOP };
    /// The empty file in the root directory that the kernel learns its lessons from.
    pub(crate) const PROBE: Self = Self { slot: Slot::OWN, index: 2 };

    /// The object with this index in the layer of this slot.
    pub const fn new(slot: Slot, index: u32) -> Self {
        Self { slot, index }
    }

    /// From the number that the kernel sends.
    pub const fn from_raw(raw: u64) -> Self {
        Self { slot: Slot((raw >> 32) as u32), index: raw as u32 }
    }

    /// The number that the kernel is told.
    pub const fn raw(self) -> u64 {
        (self.slot.0 as u64) << 32 | self.index as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_the_way_to_the_kernel_and_back() {
        for (slot, index) in [(0, 1), (1, 1), (7, u32::MAX), (u32::MAX, 0)] {
            let id = NodeId::new(Slot::new(slot), index);
            assert_eq!(NodeId::from_raw(id.raw()), id);
        }
    }

    #[test]
    fn the_root_has_the_id_that_the_protocol_fixes() {
        assert_eq!(NodeId::ROOT.raw(), 1);
        assert_eq!(NodeId::new(Slot::new(3), 5).raw(), (3 << 32) | 5);
    }
}
