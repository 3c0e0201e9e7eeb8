//! `--fail-if`: a comparison of predicted times, as in `ready > 1.2*bound`. Pure.

use std::str::FromStr;

use super::prediction::Mode;
use super::table::Row;

/// A comparison that is true or false of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    left: Term,
    is_more: bool,
    right: Term,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Term {
    factor: f64,
    of: Figure,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Figure {
    /// One second.
    Second,
    /// The time of the fastest start.
    Ready,
    /// The time in one mode.
    Mode(Mode),
}

impl Condition {
    /// Whether it is true of a row; `None`: it speaks of a mode that the row does not have.
    pub fn holds(&self, row: &Row) -> Option<bool> {
        let (left, right) = (self.left.seconds(row)?, self.right.seconds(row)?);
        Some(if self.is_more { left > right } else { left < right })
    }
}

impl Term {
    fn seconds(self, row: &Row) -> Option<f64> {
        let seconds = match self.of {
            Figure::Second => 1.0,
            Figure::Ready => row.best()?.1.ready,
            Figure::Mode(mode) => row.of(mode)?.ready,
        };
        Some(self.factor * seconds)
    }
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no condition. Compare two of ready, bound, full, lazy, prefetch, pack or seconds with < or >, as in \
                 'ready > 1.2*bound' or 'pack > 3s'"
            )
        };
        let at = text.find(['<', '>']).ok_or_else(wrong)?;
        let (left, right) = (term(&text[..at]), term(&text[at + 1..]));
        Ok(Self {
            left: left.ok_or_else(wrong)?,
            is_more: text[at..].starts_with('>'),
            right: right.ok_or_else(wrong)?,
        })
    }
}

fn term(text: &str) -> Option<Term> {
    let text = text.trim();
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    let (factor, name) = match text.split_once('*') {
        Some((factor, name)) => (number(factor)?, name.trim()),
        None => (1.0, text),
    };
    let of = if name == "ready" {
        Figure::Ready
    } else if let Some(mode) = Mode::of(name) {
        Figure::Mode(mode)
    } else {
        let seconds = number(name.strip_suffix('s').unwrap_or(name))?;
        return Some(Term { factor: factor * seconds, of: Figure::Second });
    };
    Some(Term { factor, of })
}

#[cfg(test)]
mod tests {
    use super::super::parameters::Link;
    use super::super::prediction::Outcome;
    use super::*;

    #[test]
    fn conditions_are_read_and_asked() {
        let start = |ready| Outcome { begin: 0.0, ready, bytes: 0.0, requests: 0 };
        let starts = vec![(Mode::Full, start(4.0)), (Mode::Pack, start(1.5))];
        let row = Row { link: Link::new(1.0, 1.0), bound: start(1.0), starts };
        for (text, holds) in [
            ("ready > 1.2*bound", Some(true)),
            ("ready>2 * bound", Some(false)),
            ("pack < full", Some(true)),
            ("full > 3.5s", Some(true)),
            ("2*2 < full", Some(false)),
            ("lazy > 1", None),
        ] {
            assert_eq!(text.parse::<Condition>().unwrap().holds(&row), holds, "{text}");
        }
        for text in
            ["", "ready", "ready > ", "> bound", "ready > x", "ready = bound", "a*ready > 1", "inf*ready > 1"]
        {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }
}
