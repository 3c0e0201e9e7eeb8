//! Recordings against what their workloads say that they needed: every page of it is in the trace, and how much else.
//!
//! A scenario leaves `NAME.trace` and `NAME.truth` beside each other; a truth is lines `truth KIND PATH OFFSET LENGTH`.
//! Recall is always 1. Precision, in pages, is 1 as well where the kernel says what was asked for; a page fault also maps what
//! lies beside it, within bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use soci_core::trace::{Tail, TraceReader};

use super::outcome::Check;

const PAGE: u64 = 4096;
/// The files that workloads speak of; their programs are read, too, and nobody says which pages of them.
const SPOKEN_OF: &str = "data/";
/// Scattered touches of a mapping: eBPF may have all of a window of readahead, 128 KiB, for each page that was touched.
const SCATTERED: &str = "map-some";
const SCATTERED_PRECISION: f64 = 1.0 / 32.0;

type Pages = BTreeSet<u64>;

/// What a workload needed: pages by path, each path of one kind.
#[derive(Debug, Default)]
struct Truth {
    kinds: BTreeMap<String, BTreeSet<String>>,
    pages: BTreeMap<String, Pages>,
}

impl Truth {
    fn parse(text: &str) -> Result<Self> {
        let mut truth = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let ["truth", kind, path, offset, length] = words[..] else { bail!("no truth: {line:?}") };
            let (offset, length): (u64, u64) = (offset.parse()?, length.parse()?);
            truth.kinds.entry(kind.into()).or_default().insert(path.into());
            truth.pages.entry(path.into()).or_default().extend(pages(offset, length));
        }
        Ok(truth)
    }
}

fn pages(offset: u64, length: u64) -> std::ops::Range<u64> {
    offset / PAGE..(offset + length).div_ceil(PAGE)
}

/// What a recording has: its engine, and pages by path.
#[derive(Debug)]
struct Recorded {
    engine: String,
    pages: BTreeMap<String, Pages>,
}

impl Recorded {
    fn read(trace: &Path) -> Result<Self> {
        let mut reader = TraceReader::open(trace)?;
        let mut found: BTreeMap<String, Pages> = BTreeMap::new();
        for access in reader.by_ref() {
            let access = access?;
            let path = String::from_utf8_lossy(&access.path).into_owned();
            found.entry(path).or_default().extend(pages(access.offset, access.len));
        }
        match reader.tail() {
            Some(Tail::Sealed(end)) if end.dropped == 0 => {}
            other => bail!("{} is no whole trace: {other:?}", trace.display()),
        }
        Ok(Self { engine: reader.header().engine.clone(), pages: found })
    }
}

/// A check for each kind of each recording below `out`, and one for what nobody needed.
pub(super) fn judge(out: &Path) -> Result<Vec<Check>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(out)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".truth").map(str::to_owned));
    }
    names.sort();
    let mut checks = Vec::new();
    for name in names {
        let text = std::fs::read_to_string(out.join(format!("{name}.truth")))?;
        let truth = Truth::parse(&text).with_context(|| format!("{name}.truth"))?;
        let recorded = Recorded::read(&out.join(format!("{name}.trace"))).with_context(|| name.clone())?;
        checks.extend(compare(&name, &truth, &recorded));
    }
    Ok(checks)
}

fn compare(name: &str, truth: &Truth, recorded: &Recorded) -> Vec<Check> {
    let nothing = Pages::new();
    let mut checks = Vec::new();
    for (kind, paths) in &truth.kinds {
        let (mut needed, mut seen, mut both) = (0, 0, 0);
        for path in paths {
            let (want, have) = (&truth.pages[path], recorded.pages.get(path).unwrap_or(&nothing));
            needed += want.len();
            seen += have.len();
            both += want.intersection(have).count();
        }
        let precision = if seen == 0 { 1.0 } else { both as f64 / seen as f64 };
        let floor = if kind == SCATTERED && recorded.engine != "fuse" { SCATTERED_PRECISION } else { 1.0 };
        let good = needed > 0 && both == needed && precision >= floor;
        checks.push(Check {
            name: format!("{name}: {kind}"),
            good,
            cell: format!("{both}/{needed}"),
            more: vec![format!(
                "recorded by {}: {both} of {needed} pages, precision {precision:.3}",
                recorded.engine
            )],
        });
    }
    let spoken_of = |path: &&String| path.starts_with(SPOKEN_OF) && !truth.pages.contains_key(*path);
    let more: Vec<String> = recorded.pages.keys().filter(spoken_of).cloned().collect();
    checks.push(Check {
        name: format!("{name}: nothing that nobody needed"),
        good: more.is_empty(),
        cell: "ok".to_owned(),
        more,
    });
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(truth: &str, engine: &str, seen: &[(&str, std::ops::Range<u64>)]) -> Vec<bool> {
        let pages = seen.iter().map(|(path, pages)| ((*path).to_owned(), pages.clone().collect())).collect();
        let recorded = Recorded { engine: engine.to_owned(), pages };
        compare("t", &Truth::parse(truth).unwrap(), &recorded).iter().map(|check| check.good).collect()
    }

    #[test]
    fn a_missing_page_a_page_too_many_and_a_file_too_many_are_found() {
        let truth = "truth read data/a 4095 2\n";
        assert_eq!(compared(truth, "ebpf", &[("data/a", 0..2), ("bin/sh", 0..9)]), [true, true]);
        assert_eq!(compared(truth, "ebpf", &[("data/a", 1..2)]), [false, true]);
        assert_eq!(compared(truth, "ebpf", &[("data/a", 0..3)]), [false, true]);
        assert_eq!(compared(truth, "ebpf", &[("data/a", 0..2), ("data/b", 0..1)]), [true, false]);
        assert_eq!(compared(truth, "ebpf", &[]), [false, true]);
        assert!(Truth::parse("truth read data/a 1\n").is_err());
    }

    #[test]
    fn windows_around_faults_are_bounded_and_fuse_has_none() {
        let truth = "truth map-some data/m 0 4096\n";
        assert_eq!(compared(truth, "ebpf", &[("data/m", 0..32)]), [true, true]);
        assert_eq!(compared(truth, "ebpf", &[("data/m", 0..33)]), [false, true]);
        assert_eq!(compared(truth, "fuse", &[("data/m", 0..2)]), [false, true]);
    }
}
