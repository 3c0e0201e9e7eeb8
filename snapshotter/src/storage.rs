//! What is kept for layers that no snapshot needs any more, and when it goes: their cached bytes, and the indexes, tables and
//! packs of their images.
//!
//! A [`Sweeper`] owns when each was needed last. What must always hold: nothing goes that a snapshot names or an image in work
//! uses, or that did so a short time ago.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use soci_core::digest::Digest;

/// Digests of layers and of documents (manifests; what they name is needed, too).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// Layers.
    pub layers: HashSet<Digest>,
    /// Manifests of images, indexes, fine indexes and packs.
    pub documents: HashSet<Digest>,
}

impl Needed {
    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.layers.extend(other.layers);
        self.documents.extend(other.documents);
        self
    }
}

/// Decides what goes.
#[derive(Debug)]
pub struct Sweeper {
    keep: Duration,
    layers: HashMap<Digest, Instant>,
    documents: HashMap<Digest, Instant>,
    /// When it began: before, everything may have been needed.
    began: Instant,
    /// Something may be on disk that is not needed: from before it began, or because it was still in use.
    is_left: bool,
}

impl Sweeper {
    /// Keeps what is not needed any more for `keep`.
    pub fn new(keep: Duration, now: Instant) -> Self {
        Self { keep, layers: HashMap::new(), documents: HashMap::new(), began: now, is_left: true }
    }

    /// What stays, from what is needed now; `None` when nothing else can be there.
    pub fn sweep(&mut self, needed: Needed, now: Instant) -> Option<Needed> {
        let is_old = |at: Instant| now.saturating_duration_since(at) >= self.keep;
        self.layers.extend(needed.layers.into_iter().map(|layer| (layer, now)));
        self.documents.extend(needed.documents.into_iter().map(|document| (document, now)));
        let before = self.layers.len() + self.documents.len();
        self.layers.retain(|_, at| *at == now || !is_old(*at));
        self.documents.retain(|_, at| *at == now || !is_old(*at));
        let may_go = self.is_left && is_old(self.began);
        if self.layers.len() + self.documents.len() == before && !may_go {
            return None;
        }
        self.is_left &= !may_go;
        let (layers, documents) =
            (self.layers.keys().copied().collect(), self.documents.keys().copied().collect());
        Some(Needed { layers, documents })
    }
}

impl Sweeper {
    /// Something that should have gone is still in use: it is tried again.
    pub fn try_again(&mut self) {
        self.is_left = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(layers: &[&str]) -> Needed {
        let layers: HashSet<_> = layers.iter().map(|name| Digest::of(name.as_bytes())).collect();
        Needed { documents: layers.clone(), layers }
    }

    #[test]
    fn what_is_not_needed_stays_for_a_while() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut sweeper = Sweeper::new(Duration::from_mins(1), begin);
        assert_eq!(sweeper.sweep(needed(&["a", "b"]), at(0)), None);
        assert_eq!(sweeper.sweep(needed(&["a"]), at(59)), None, "b was needed a moment ago");
        assert_eq!(sweeper.sweep(needed(&["a"]), at(60)), Some(needed(&["a"])));
        assert_eq!(sweeper.sweep(needed(&["a"]), at(90)), None);
        assert_eq!(sweeper.sweep(needed(&["c"]), at(100)), None);
        assert_eq!(sweeper.sweep(needed(&["c", "a"]), at(140)), None, "needed again");
        assert_eq!(sweeper.sweep(needed(&[]), at(200)), Some(needed(&[])));
    }

    #[test]
    fn what_an_earlier_process_has_left_goes_after_the_same_time() {
        let begin = Instant::now();
        let mut sweeper = Sweeper::new(Duration::from_mins(1), begin);
        assert_eq!(sweeper.sweep(needed(&[]), begin + Duration::from_secs(30)), None);
        assert_eq!(sweeper.sweep(needed(&[]), begin + Duration::from_mins(1)), Some(needed(&[])));
        assert_eq!(sweeper.sweep(needed(&[]), begin + Duration::from_secs(90)), None);
    }

    #[test]
    fn nothing_is_kept_for_no_time() {
        let begin = Instant::now();
        let mut sweeper = Sweeper::new(Duration::ZERO, begin);
        assert_eq!(sweeper.sweep(needed(&["a"]), begin), Some(needed(&["a"])));
        assert_eq!(sweeper.sweep(needed(&["b"]), begin + Duration::from_secs(1)), Some(needed(&["b"])));
    }
}
