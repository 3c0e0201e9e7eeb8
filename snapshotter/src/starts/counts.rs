//! All that is counted for an image, at one moment, and what it means. Plain numbers.

use super::report::{Bytes, Waits};

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Bytes that the link has carried for all but spans and whole layers.
    pub(super) other: u64,
    /// The same for spans of the image's layers.
    pub(super) spans: u64,
    /// The same for layers that were pulled whole.
    pub(super) whole: u64,
    /// Requests for all of these.
    pub(super) requests: u64,
    /// Stored bytes of a pack's blocks.
    pub(super) packed: u64,
    /// Compressed bytes of spans, by who wanted them.
    pub(super) missed: u64,
    pub(super) prefetched: u64,
    pub(super) background: u64,
    /// Plain bytes that came ahead of readers, and what became of them.
    pub(super) ahead: u64,
    pub(super) hit: u64,
    pub(super) handed: u64,
    pub(super) late: u64,
    /// Microseconds that readers waited.
    pub(super) late_wait: u64,
    pub(super) missed_wait: u64,
    pub(super) reads: u64,
    pub(super) read_bytes: u64,
}

impl Counts {
    fn each(&self, other: &Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            other: with(self.other, other.other),
            spans: with(self.spans, other.spans),
            whole: with(self.whole, other.whole),
            requests: with(self.requests, other.requests),
            packed: with(self.packed, other.packed),
            missed: with(self.missed, other.missed),
            prefetched: with(self.prefetched, other.prefetched),
            background: with(self.background, other.background),
            ahead: with(self.ahead, other.ahead),
            hit: with(self.hit, other.hit),
            handed: with(self.handed, other.handed),
            late: with(self.late, other.late),
            late_wait: with(self.late_wait, other.late_wait),
            missed_wait: with(self.missed_wait, other.missed_wait),
            reads: with(self.reads, other.reads),
            read_bytes: with(self.read_bytes, other.read_bytes),
        }
    }

    /// These and others.
    pub(super) fn and(&self, other: &Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// What came after `before`.
    pub(super) fn since(&self, before: &Self) -> Self {
        self.each(before, u64::saturating_sub)
    }

    /// Link bytes by what became of them. What came ahead of readers is split as its plain bytes are.
    pub(super) fn bytes(&self) -> Bytes {
        let ahead = self.packed.saturating_add(self.prefetched);
        // Bytes that came before may have been read since.
        let used = self.hit.saturating_add(self.handed).saturating_add(self.late);
        let plain = self.ahead.max(used).max(1);
        let part = |of: u64| (u128::from(ahead) * u128::from(of) / u128::from(plain)) as u64;
        let (handed, late) = (part(self.handed), part(self.late));
        let wasted = part(plain.saturating_sub(used));
        // What is lost to rounding belongs to what there is.
        let was_read = self.hit.saturating_add(self.handed) > 0;
        let hit = if was_read { ahead.saturating_sub(late).saturating_sub(wasted) } else { 0 };
        let link = self.other.saturating_add(self.spans).saturating_add(self.whole);
        let named =
            ahead.saturating_add(self.missed).saturating_add(self.background).saturating_add(self.whole);
        Bytes {
            link,
            hit,
            handed,
            late,
            wasted: ahead.saturating_sub(hit).saturating_sub(late),
            missed: self.missed,
            background: self.background,
            whole: self.whole,
            overhead: link.saturating_sub(named),
        }
    }

    /// Waits in milliseconds.
    pub(super) fn waits(&self) -> Waits {
        Waits { late_ms: self.late_wait / 1000, missed_ms: self.missed_wait / 1000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_of_the_link_are_somewhere() {
        let counts = Counts {
            other: 1000 + 300,
            spans: 500 + 200 + 10,
            whole: 7000,
            packed: 1000,
            missed: 500,
            prefetched: 200,
            ahead: 4000,
            hit: 1000,
            handed: 500,
            late: 500,
            ..Counts::default()
        };
        let bytes = counts.bytes();
        assert_eq!((bytes.hit, bytes.handed, bytes.late, bytes.wasted), (450, 150, 150, 600));
        assert_eq!((bytes.missed, bytes.whole, bytes.overhead), (500, 7000, 310));
        assert_eq!(bytes.link, 9010);
        assert_eq!(bytes.sum(), bytes.link);
        assert_eq!(Counts::default().bytes(), Bytes::default());
        assert_eq!(counts.and(&counts).since(&counts), counts);
        // What came with an earlier start does not count here.
        let later = Counts { hit: 100, ..Counts::default() };
        assert_eq!(later.bytes(), Bytes::default());
    }
}
