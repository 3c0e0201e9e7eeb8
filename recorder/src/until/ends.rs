//! From the moments at which rules come true to readiness and the end of a recording. Pure: told of moments by others.
//!
//! Ready is the moment at which the first rule comes true. Each rule ends the recording at its own moment plus its tail
//! (its own, else the recording's), and the earliest of these ends counts. With `ready` in the list, a rule that only
//! tells readiness ends nothing unless it has a tail of its own; `ready` ends at readiness plus its tail.

use std::time::{Duration, Instant};

use super::{Condition, Rule, Until};

/// What has come true so far.
#[derive(Debug)]
pub struct Ends {
    rules: Vec<Rule>,
    tail: Duration,
    start: Instant,
    came_true: Vec<Option<Instant>>,
}

impl Ends {
    /// Nothing has come true yet. `tail` counts for rules that have none.
    pub fn new(until: &Until, tail: Duration, start: Instant) -> Self {
        let mut rules = until.rules().to_vec();
        if rules.is_empty() {
            rules.push(Rule { when: Condition::Exit, tail: None });
        }
        let came_true = vec![None; rules.len()];
        Self { rules, tail, start, came_true }
    }

    /// A rule came true; the earliest of several moments counts.
    pub fn note(&mut self, rule: usize, at: Instant) {
        if let Some(known) = self.came_true.get_mut(rule) {
            *known = Some(known.map_or(at, |known| known.min(at)));
        }
    }

    /// This moment has come: time rules that are due come true.
    pub fn reach(&mut self, now: Instant) {
        for at in 0..self.rules.len() {
            if let Condition::Time(time) = self.rules[at].when
                && let Some(due) = self.start.checked_add(time).filter(|due| *due <= now)
            {
                self.note(at, due);
            }
        }
    }

    /// The workload ended: nothing comes true later.
    pub fn exited(&mut self, at: Instant) {
        for known in self.came_true.iter_mut().flatten() {
            *known = (*known).min(at);
        }
        for rule in 0..self.rules.len() {
            if matches!(self.rules[rule].when, Condition::Exit) {
                self.note(rule, at);
            }
        }
    }

    /// A signal came; is it one that a rule waits for, and not the wish to stop?
    pub fn signalled(&mut self, at: Instant) -> bool {
        let waits = |rule: &usize| {
            matches!(self.rules[*rule].when, Condition::Signal) && self.came_true[*rule].is_none()
        };
        let Some(rule) = (0..self.rules.len()).find(waits) else { return false };
        let end = at.checked_add(self.rules[rule].tail.unwrap_or(self.tail));
        // A rule that would change nothing any more is not what the user means.
        if self.ready().is_some() && self.end().is_some_and(|known| end.is_none_or(|end| end >= known)) {
            return false;
        }
        self.note(rule, at);
        true
    }

    /// When the workload became ready.
    pub fn ready(&self) -> Option<Instant> {
        self.came_true.iter().flatten().min().copied()
    }

    /// When the recording is to end, as far as is known now.
    pub fn end(&self) -> Option<Instant> {
        let deferred = self.rules.iter().any(|rule| matches!(rule.when, Condition::Ready));
        let ends = self.rules.iter().zip(&self.came_true).filter_map(|(rule, came_true)| {
            let at = match rule.when {
                Condition::Ready => self.ready()?,
                _ if deferred && rule.tail.is_none() && rule.when.tells_readiness() => return None,
                _ => (*came_true)?,
            };
            at.checked_add(rule.tail.unwrap_or(self.tail))
        });
        ends.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ends(text: &str, tail: u64) -> (Ends, Instant) {
        let start = Instant::now();
        let until = if text.is_empty() { Until::default() } else { text.parse().unwrap() };
        (Ends::new(&until, s(tail), start), start)
    }

    #[test]
    fn the_earliest_end_counts_and_the_earliest_moment_is_readiness() {
        let (mut ends, start) = ends("log:x+5s or 60s", 0);
        ends.reach(start + s(57));
        assert_eq!((ends.ready(), ends.end()), (None, None));
        ends.note(0, start + s(58));
        assert_eq!((ends.ready(), ends.end()), (Some(start + s(58)), Some(start + s(63))));
        ends.reach(start + s(61));
        assert_eq!(
            (ends.ready(), ends.end()),
            (Some(start + s(58)), Some(start + s(60))),
            "the limit is one"
        );
    }

    #[test]
    fn without_a_match_the_time_is_readiness_and_end() {
        let (mut ends, start) = ends("log:x+5s or 60s", 0);
        ends.reach(start + s(70));
        assert_eq!((ends.ready(), ends.end()), (Some(start + s(60)), Some(start + s(60))));
    }

    #[test]
    fn ready_ends_what_other_rules_only_tell() {
        let (mut ends, start) = ends("log:x or tcp:1+1s or ready+5s or 60s", 0);
        ends.note(0, start + s(3));
        assert_eq!((ends.ready(), ends.end()), (Some(start + s(3)), Some(start + s(8))));
        ends.note(1, start + s(4));
        assert_eq!(ends.end(), Some(start + s(5)), "a tail of its own ends");
    }

    #[test]
    fn the_tail_of_the_recording_counts_for_rules_without_one() {
        let (mut ends, start) = ends("log:x or tcp:1+1s", 9);
        ends.note(0, start + s(1));
        ends.note(1, start + s(2));
        ends.note(1, start + s(7));
        assert_eq!((ends.ready(), ends.end()), (Some(start + s(1)), Some(start + s(3))));
        ends.note(99, start);
        assert_eq!(ends.ready(), Some(start + s(1)), "a rule that is not there");
    }

    #[test]
    fn the_end_of_the_workload_is_readiness_only_where_it_is_a_rule() {
        for (text, is_ready) in [("", true), ("exit", true), ("log:x", false), ("log:x or exit", true)] {
            let (mut ends, start) = ends(text, 0);
            ends.exited(start + s(2));
            assert_eq!(ends.ready().is_some(), is_ready, "{text}");
        }
        let (mut ends, start) = ends("log:x", 0);
        ends.note(0, start + s(3));
        ends.exited(start + s(2));
        assert_eq!(ends.ready(), Some(start + s(2)), "last words come no later than the end");
    }

    #[test]
    fn a_signal_is_a_rule_once_and_only_where_it_changes_something() {
        let (mut ends, start) = ends("signal+5s", 0);
        assert!(ends.signalled(start + s(1)));
        assert_eq!((ends.ready(), ends.end()), (Some(start + s(1)), Some(start + s(6))));
        assert!(!ends.signalled(start + s(2)), "the second is the wish to stop");
        let (mut ends, start) = self::ends("log:x or signal", 60);
        ends.note(0, start + s(1));
        assert!(!ends.signalled(start + s(2)));
        let (mut ends, start) = self::ends("log:x+60s or signal", 0);
        ends.note(0, start + s(1));
        assert!(ends.signalled(start + s(2)));
        assert_eq!((ends.ready(), ends.end()), (Some(start + s(1)), Some(start + s(2))));
        assert!(!self::ends("log:x", 0).0.signalled(start));
    }
}
