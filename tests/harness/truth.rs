//! What a workload says it needed, beside what a recording says: recall and precision for each way of reading.
//!
//! The programs `access` and `load` print a line `truth KIND PATH OFFSET LENGTH` for each need. [`Truth`] owns what they
//! said; it does not matter how the workload was run.

use std::collections::{BTreeMap, BTreeSet};

use soci_core::trace::Access;

use crate::recording::PAGE;

/// What is said of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// The way it was read.
    pub kind: String,
    /// The bytes that were needed, as ranges from the first to behind the last.
    pub ranges: Vec<(u64, u64)>,
}

impl Needed {
    /// The pages that were needed.
    pub fn pages(&self) -> BTreeSet<u64> {
        self.ranges.iter().flat_map(|(start, end)| start / PAGE..end.div_ceil(PAGE)).collect()
    }
}

/// All that a workload said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Truth {
    /// By path, without a leading slash.
    pub files: BTreeMap<String, Needed>,
}

impl Truth {
    /// Reads the lines of a workload's standard output.
    ///
    /// # Panics
    /// When a line is none of them.
    pub fn parse(stdout: &str) -> Self {
        let mut files: BTreeMap<String, Needed> = BTreeMap::new();
        for line in stdout.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["truth", kind, path, offset, length] => {
                    let number = |word: &str| word.parse::<u64>().expect("a number");
                    let (offset, length) = (number(offset), number(length));
                    let needed = files
                        .entry(path.to_owned())
                        .or_insert_with(|| Needed { kind: kind.into(), ranges: Vec::new() });
                    needed.ranges.push((offset, offset + length));
                }
                ["absent", kind] => println!("this machine has no {kind}"),
                _ => panic!("unexpected line {line:?}"),
            }
        }
        Self { files }
    }

    /// Of each kind, how many pages were recorded that were not needed.
    pub fn needless(&self, recorded: &BTreeMap<String, BTreeSet<u64>>) -> BTreeMap<&str, usize> {
        let of = |(path, needed): (&String, &Needed)| {
            recorded.get(path).map_or(0, |seen| seen.difference(&needed.pages()).count())
        };
        self.files.iter().map(|file| (file.1.kind.as_str(), of(file))).collect()
    }

    /// Prints recall and precision of each file, and gives the kinds of which a page is missing.
    pub fn missing(&self, recorded: &BTreeMap<String, BTreeSet<u64>>) -> BTreeSet<&str> {
        let nothing = BTreeSet::new();
        let mut missing = BTreeSet::new();
        for (path, needed) in &self.files {
            let (kind, pages) = (&needed.kind, needed.pages());
            let seen = recorded.get(path).unwrap_or(&nothing);
            let both = pages.intersection(seen).count();
            println!(
                "{kind:9} needed {:5} pages, recorded {:5}: recall {:.3}, precision {:.3}",
                pages.len(),
                seen.len(),
                both as f64 / pages.len() as f64,
                if seen.is_empty() { 1.0 } else { both as f64 / seen.len() as f64 },
            );
            if both < pages.len() {
                missing.insert(kind.as_str());
            }
        }
        missing
    }
}

/// The pages of each file that a trace names.
pub fn pages(accesses: &[Access]) -> BTreeMap<String, BTreeSet<u64>> {
    let mut pages: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for access in accesses {
        let of_file = pages.entry(String::from_utf8_lossy(&access.path).into_owned()).or_default();
        of_file.extend(access.offset / PAGE..(access.offset + access.len).div_ceil(PAGE));
    }
    pages
}
