//! What nobody needs: the cached bytes of layers that no snapshot names any more, and the indexes, tables and packs of their
//! images.
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

/// What stays and what goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Swept {
    /// What stays. Of layers, all others go: nobody else keeps any.
    pub kept: Needed,
    /// Documents that were needed and are not any more. Others are not ours to remove.
    pub over: HashSet<Digest>,
}

/// Decides what goes.
#[derive(Debug)]
pub struct Sweeper {
    keep: Duration,
    layers: HashMap<Digest, Instant>,
    documents: HashMap<Digest, Instant>,
    /// Documents that are to go, until they have gone.
    over: HashSet<Digest>,
    /// When it began: before, everything may have been needed.
    began: Instant,
    /// Layers may be on disk that are not needed: from before it began, or because they were still in use.
    is_left: bool,
}

impl Sweeper {
    /// Keeps what is not needed any more for `keep`.
    pub fn new(keep: Duration, now: Instant) -> Self {
        let (layers, documents, over) = Default::default();
        Self { keep, layers, documents, over, began: now, is_left: true }
    }

    /// What stays and goes, from what is needed now; `None` when nothing can go.
    pub fn sweep(&mut self, needed: Needed, now: Instant) -> Option<Swept> {
        let is_over = |at: &Instant| *at != now && now.saturating_duration_since(*at) >= self.keep;
        self.layers.extend(needed.layers.into_iter().map(|layer| (layer, now)));
        self.documents.extend(needed.documents.into_iter().map(|document| (document, now)));
        self.is_left |= self.layers.extract_if(|_, at| is_over(at)).count() > 0;
        self.over.extend(self.documents.extract_if(|_, at| is_over(at)).map(|(document, _)| document));
        self.over.retain(|document| !self.documents.contains_key(document));
        let may_go = self.is_left && now.saturating_duration_since(self.began) >= self.keep;
        if !may_go && self.over.is_empty() {
            return None;
        }
        let layers = self.layers.keys().copied().collect();
        let documents = self.documents.keys().copied().collect();
        Some(Swept { kept: Needed { layers, documents }, over: self.over.clone() })
    }

    /// What was to go has gone, but for layers that are still in use.
    pub fn given_back(&mut self, in_use: bool) {
        self.over.clear();
        self.is_left = in_use;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(layers: &[&str]) -> Needed {
        let layers: HashSet<_> = layers.iter().map(|name| Digest::of(name.as_bytes())).collect();
        Needed { documents: layers.clone(), layers }
    }

    /// What goes of documents; their names are those of layers.
    fn over(sweeper: &mut Sweeper, layers: &[&str], now: Instant) -> Option<HashSet<Digest>> {
        let swept = sweeper.sweep(needed(layers), now)?;
        sweeper.given_back(false);
        assert!(swept.over.is_disjoint(&swept.kept.documents));
        assert_eq!(swept.kept.layers, swept.kept.documents);
        Some(swept.over)
    }

    #[test]
    fn what_is_not_needed_stays_for_a_while() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut sweeper = Sweeper::new(Duration::from_mins(1), begin);
        let mut over = |layers: &[&str], seconds| over(&mut sweeper, layers, at(seconds));
        let set = |names: &[&str]| Some(needed(names).documents);
        assert_eq!(over(&["a", "b"], 0), None);
        assert_eq!(over(&["a"], 59), None, "b was needed a moment ago");
        assert_eq!(over(&["a"], 60), set(&["b"]));
        assert_eq!(over(&["a"], 90), None);
        assert_eq!(over(&["c"], 100), None);
        assert_eq!(over(&["c", "a"], 140), None, "needed again");
        assert_eq!(over(&[], 200), set(&["a", "c"]));
    }

    #[test]
    fn layers_that_an_earlier_process_has_left_go_after_the_same_time() {
        let begin = Instant::now();
        let mut sweeper = Sweeper::new(Duration::from_mins(1), begin);
        assert_eq!(over(&mut sweeper, &[], begin + Duration::from_secs(30)), None);
        let nothing = Some(HashSet::new());
        assert_eq!(over(&mut sweeper, &[], begin + Duration::from_mins(1)), nothing, "and no document");
        assert_eq!(over(&mut sweeper, &[], begin + Duration::from_secs(90)), None);
    }

    #[test]
    fn what_has_not_gone_is_to_go_again_unless_it_is_needed() {
        let begin = Instant::now();
        let mut sweeper = Sweeper::new(Duration::ZERO, begin);
        sweeper.sweep(needed(&["a", "b"]), begin).unwrap();
        let later = begin + Duration::from_secs(1);
        assert_eq!(sweeper.sweep(needed(&[]), later).unwrap().over, needed(&["a", "b"]).documents);
        assert_eq!(sweeper.sweep(needed(&["b"]), later).unwrap().over, needed(&["a"]).documents);
        sweeper.given_back(true);
        assert!(sweeper.sweep(needed(&["b"]), later).is_some(), "a layer is in use");
    }
}
