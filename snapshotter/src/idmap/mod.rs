//! Ids of users and groups in a user namespace: which of them is which outside.
//!
//! Pure, but for [`kernel`], which shows a mount with other ids. The text of a map comes from whoever asks for a snapshot: what
//! the kernel would not take is refused here.

pub(crate) mod kernel;

use std::fmt::{self, Write as _};
use std::str::FromStr;

/// Ranges in one map: the kernel takes no more.
const MAX_RANGES: usize = 340;

/// A map of ids that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no map of ids: INSIDE:OUTSIDE:COUNT, with commas between ranges that do not overlap")]
pub struct IdMapError(String);

/// Consecutive ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    /// The first inside of the namespace, and on the disk.
    inside: u32,
    /// The first outside.
    outside: u32,
    /// How many, at least one.
    count: u32,
}

/// The ids of a namespace; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap(Vec<Range>);

/// The ids of users and groups of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// Users.
    pub users: IdMap,
    /// Groups.
    pub groups: IdMap,
}

impl IdMaps {
    /// User and group outside of those that have these ids inside; what is not in the map becomes the namespace's root.
    pub fn outside(&self, (user, group): (u32, u32)) -> (u32, u32) {
        (self.users.outside_or_root(user), self.groups.outside_or_root(group))
    }
}

impl IdMap {
    fn outside(&self, id: u32) -> Option<u32> {
        let range =
            self.0.iter().find(|range| id.checked_sub(range.inside).is_some_and(|at| at < range.count))?;
        Some(range.outside + (id - range.inside))
    }

    fn outside_or_root(&self, id: u32) -> u32 {
        self.outside(id).or_else(|| self.outside(0)).unwrap_or(self.0[0].outside)
    }

    /// As the kernel reads it: a line for each range.
    fn lines(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, range| {
            // A String takes everything.
            let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.count);
            text
        })
    }
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Range { inside, outside, count }) in self.0.iter().enumerate() {
            write!(f, "{}{inside}:{outside}:{count}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// As in containerd's labels: `INSIDE:OUTSIDE:COUNT`, with commas between.
impl FromStr for IdMap {
    type Err = IdMapError;

    fn from_str(text: &str) -> Result<Self, IdMapError> {
        let wrong = || IdMapError(text.chars().take(100).collect());
        let ranges: Option<Vec<_>> = text.split(',').take(MAX_RANGES + 1).map(range).collect();
        let ranges = ranges.filter(|ranges| ranges.len() <= MAX_RANGES).ok_or_else(wrong)?;
        let apart = |first: fn(&Range) -> u32| {
            let mut sorted: Vec<_> = ranges.iter().map(|range| (first(range), range.count)).collect();
            sorted.sort_unstable();
            sorted.windows(2).all(|pair| pair[0].0 + (pair[0].1 - 1) < pair[1].0)
        };
        if apart(|range| range.inside) && apart(|range| range.outside) {
            Ok(Self(ranges))
        } else {
            Err(wrong())
        }
    }
}

fn range(text: &str) -> Option<Range> {
    let mut numbers = text.split(':').map(|number| number.trim().parse::<u32>().ok());
    let (inside, outside, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
    // The last id, -1, is nobody's.
    let ends = |first: u32| first.checked_add(count.checked_sub(1)?).filter(|last| *last < u32::MAX);
    ends(inside).and(ends(outside))?;
    numbers.next().is_none().then_some(Range { inside, outside, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_of_one_and_of_several_ranges_are_read() {
        let one: IdMap = "0:100000:65536".parse().unwrap();
        assert_eq!(
            (one.outside(0), one.outside(65535), one.outside(65536)),
            (Some(100_000), Some(165_535), None)
        );
        let several: IdMap = "0:100000:1000,1000:5:1, 2000:200000:10".parse().unwrap();
        assert_eq!((several.outside(1000), several.outside(2009)), (Some(5), Some(200_009)));
        assert_eq!(several.lines(), "0 100000 1000\n1000 5 1\n2000 200000 10\n");
        let maps = IdMaps { users: several, groups: one };
        assert_eq!(maps.outside((1000, 7)), (5, 100_007));
        assert_eq!(maps.outside((1001, 70_000)), (100_000, 100_000), "what is not mapped is root's");
    }

    #[test]
    fn what_the_kernel_would_not_take_is_refused() {
        let many = vec!["0:0:1"; 400].join(",");
        for text in [
            "",
            "0",
            "0:0",
            "0:0:0",
            "0:0:1:1",
            "-1:0:1",
            "0:4294967295:1",
            "1:0:4294967295",
            "a:b:c",
            "0:0:1,",
            &many,
            "0:100:10,5:200:10",
            "0:100:10,10:105:10",
            "0:0:4294967296",
        ] {
            assert!(text.parse::<IdMap>().is_err(), "{text}");
        }
        assert!("0:0:4294967295".parse::<IdMap>().is_ok(), "the initial namespace");
    }
}
