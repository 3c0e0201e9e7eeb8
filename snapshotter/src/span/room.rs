//! Room on the disk for cached bytes: what those who write tell whoever makes room, and what they are told.
//!
//! A [`Room`] owns the counts, for all layers of a node; [`Room::measured`] puts them right. Time goes by in rounds: a round is from one measuring to
//! the next. What must always hold: whoever makes room is woken after a write was refused, and after more was written than the
//! last measuring left; nothing here waits.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use tokio::sync::Notify;

/// The number of a round.
pub type Round = u32;

/// Room for cached bytes.
#[derive(Debug)]
pub struct Room {
    round: AtomicU32,
    /// Bytes that may still be written.
    left: AtomicI64,
    /// With less than this left, nothing is fetched that nobody asked for.
    reserve: AtomicI64,
    /// A write was refused since the last round began.
    refused: AtomicBool,
    wanted: Notify,
}

impl Default for Room {
    /// Boundless, until somebody measures.
    fn default() -> Self {
        Self {
            round: AtomicU32::new(1),
            left: AtomicI64::new(i64::MAX),
            reserve: AtomicI64::new(0),
            refused: AtomicBool::default(),
            wanted: Notify::new(),
        }
    }
}

impl Room {
    /// The round of now.
    pub fn round(&self) -> Round {
        self.round.load(Ordering::Relaxed)
    }

    /// Bytes were written.
    pub(crate) fn wrote(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let before = self.left.fetch_sub(bytes, Ordering::Relaxed);
        if before >= 0 && before < bytes {
            self.wanted.notify_one();
        }
    }

    /// Bytes could not be written.
    pub(crate) fn refused(&self) {
        self.refused.store(true, Ordering::Release);
        self.wanted.notify_one();
    }

    /// Whether what nobody has asked for should not be fetched.
    pub fn is_tight(&self) -> bool {
        self.left.load(Ordering::Relaxed) <= self.reserve.load(Ordering::Relaxed)
    }

    /// Waits until somebody wants room.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Begins a round in which `left` bytes may be written; the last `reserve` of them only for who waits. Whether a write was
    /// refused in the round before.
    pub fn measured(&self, left: i64, reserve: u64) -> bool {
        self.left.store(left, Ordering::Relaxed);
        self.reserve.store(i64::try_from(reserve).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.round.fetch_add(1, Ordering::Relaxed);
        self.refused.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether somebody wants room.
    async fn is_wanted(room: &Room) -> bool {
        tokio::select! {
            biased;
            () = room.wanted() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn who_makes_room_is_woken_once_when_it_is_used_up_and_when_a_write_is_refused() {
        let room = Room::default();
        room.wrote(1 << 40);
        assert!(!room.is_tight() && !is_wanted(&room).await, "nobody has measured");
        assert!(!room.measured(100, 10));
        room.wrote(90);
        assert!(room.is_tight() && !is_wanted(&room).await);
        room.wrote(11);
        assert!(is_wanted(&room).await);
        room.wrote(11);
        assert!(!is_wanted(&room).await, "said once");
        room.refused();
        assert!(is_wanted(&room).await);
        let round = room.round();
        assert!(room.measured(50, 10), "a write was refused");
        assert_eq!(room.round(), round + 1);
        assert!(!room.is_tight() && !room.measured(-1, 0) && room.is_tight());
    }
}
