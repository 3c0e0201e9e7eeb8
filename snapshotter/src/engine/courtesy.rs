//! For how long a download ahead of readers gives way to them.
//!
//! Owned by the download. What must always hold: a reader that reads for minutes makes it a third longer, and no more.

use std::time::Duration;

use tokio::time::Instant;

/// It gives way for so long, whatever came before.
const AT_FIRST: Duration = Duration::from_millis(50);

/// What a download has waited for readers.
#[derive(Debug)]
pub(super) struct Courtesy {
    begun: Instant,
    /// In all.
    pub(super) waited: Duration,
}

impl Courtesy {
    pub(super) fn new(now: Instant) -> Self {
        Self { begun: now, waited: Duration::ZERO }
    }

    /// For how long it may wait now: a third of the time in which it did not wait, less what it has waited.
    pub(super) fn left(&self, now: Instant) -> Duration {
        let own = now.saturating_duration_since(self.begun).saturating_sub(self.waited);
        (AT_FIRST + own / 3).saturating_sub(self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_a_third_longer_at_most() {
        let begin = Instant::now();
        let (mut courtesy, mut now, mut own) = (Courtesy::new(begin), begin, Duration::ZERO);
        assert_eq!(courtesy.left(now), AT_FIRST);
        // Somebody always reads: it waits for as long as it may before each piece, of 10 ms.
        for _ in 0..1000 {
            let wait = courtesy.left(now);
            courtesy.waited += wait;
            now += wait + Duration::from_millis(10);
            own += Duration::from_millis(10);
        }
        let all = now - begin;
        assert!(all > own * 5 / 4 && all <= own * 4 / 3 + AT_FIRST, "{all:?} for {own:?}");
    }
}
