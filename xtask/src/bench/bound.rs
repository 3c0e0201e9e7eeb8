//! The physical bound of a start (docs/design: numbers we hold ourselves to):
//! `T >= T_warm + max(0, max_i(h*R + P_i/B - d_i))`.
//!
//! Item *i* is an access of the recorded run. `P_i` counts the bytes that any system has to move before it:
//! the pages touched so far, each once, in need order, as one deflate stream (level 6). `d_i` is when the warm
//! run first needs the item: the recorded time since the workload's start, scaled to the warm run's length.
//! `h` is 2: one round trip to learn what the image is, one until the first byte of content.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use soci_core::trace::{Tail, TraceReader};

use crate::link::Net;

const PAGE: u64 = 4096;
const HOPS: f64 = 2.0;

/// What a start needs, in need order.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    /// When (seconds since the workload's start) and how many compressed bytes up to and with that item.
    items: Vec<(f64, f64)>,
    /// When the recorded workload was ready.
    ready: f64,
}

impl Bound {
    /// From a recorded run and the image's unpacked files.
    pub(crate) fn from_trace(trace: &Path, rootfs: &Path) -> Result<Self> {
        let mut reader = TraceReader::open(trace)?;
        let mut accesses = reader.by_ref().collect::<Result<Vec<_>, _>>()?;
        let Some(Tail::Sealed(end)) = reader.tail() else { bail!("{} is not sealed", trace.display()) };
        let ready = end.ready_ns.context("the recorded workload never became ready")?;
        accesses.retain(|access| access.t_ns <= ready);
        accesses.sort_by_key(|access| access.t_ns);
        let mut pages = Pages::default();
        let mut items = Vec::new();
        for access in accesses {
            let path = rootfs.join(std::ffi::OsStr::from_bytes(&access.path));
            let before = pages.seen.len();
            pages.touch(&path, access.offset, access.len)?;
            if pages.seen.len() > before {
                items.push((access.t_ns as f64 / 1e9, pages.compressed() as f64));
            }
        }
        let total = pages.finish()?;
        if let Some(last) = items.last_mut() {
            last.1 = total as f64;
        }
        Ok(Self { items, ready: ready as f64 / 1e9 })
    }

    /// Compressed bytes of everything that is needed until ready.
    pub(crate) fn bytes(&self) -> f64 {
        self.items.last().map_or(0.0, |item| item.1)
    }

    /// The bound over a link, where a warm start takes `warm` seconds and its workload began `begin` seconds
    /// after the start.
    pub(crate) fn seconds(&self, net: Net, warm: f64, begin: f64) -> f64 {
        let scale = if self.ready > 0.0 { (warm - begin).max(0.0) / self.ready } else { 0.0 };
        let latency = HOPS * net.rtt_ms / 1e3;
        let seconds_per_byte = if net.mbit > 0.0 { 8e-6 / net.mbit } else { 0.0 };
        let late =
            self.items.iter().map(|(need, bytes)| latency + bytes * seconds_per_byte - begin - need * scale);
        warm + late.fold(0.0, f64::max)
    }
}

/// Pages in the order of their first touch, deflated.
struct Pages {
    seen: HashSet<(u64, u64)>,
    deflate: DeflateEncoder<Count>,
}

impl Default for Pages {
    fn default() -> Self {
        Self { seen: HashSet::new(), deflate: DeflateEncoder::new(Count(0), Compression::new(6)) }
    }
}

impl Pages {
    /// Adds the pages of a range that were not touched before; what is no regular file has none.
    fn touch(&mut self, path: &Path, offset: u64, len: u64) -> Result<()> {
        let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
        let end = offset.saturating_add(len).min(meta.size());
        if !meta.is_file() || offset >= end {
            return Ok(());
        }
        let mut file = None;
        for page in offset / PAGE..end.div_ceil(PAGE) {
            if self.seen.insert((meta.ino(), page)) {
                let file = match &file {
                    Some(file) => file,
                    None => file.insert(File::open(path)?),
                };
                let mut bytes = [0; PAGE as usize];
                let length = (meta.size() - page * PAGE).min(PAGE) as usize;
                file.read_exact_at(&mut bytes[..length], page * PAGE)?;
                self.deflate.write_all(&bytes[..length])?;
            }
        }
        Ok(())
    }

    /// Bytes that the compressor has given out so far: at most one block behind, so the bound stays one.
    fn compressed(&self) -> u64 {
        self.deflate.get_ref().0
    }

    fn finish(self) -> Result<u64> {
        Ok(self.deflate.finish()?.0)
    }
}

/// Counts bytes and drops them.
#[derive(Debug)]
struct Count(u64);

impl Write for Count {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET: Net = Net { mbit: 80.0, rtt_ms: 10.0 };

    #[test]
    fn what_is_needed_late_enough_costs_nothing() {
        // 10 MB at 80 Mbit/s take one second.
        let bound = Bound { items: vec![(2.0, 10e6)], ready: 2.0 };
        assert!((bound.seconds(NET, 2.0, 0.0) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn the_worst_prefix_counts_not_the_sum() {
        let bound = Bound { items: vec![(0.0, 1e6), (0.5, 10e6)], ready: 1.0 };
        // first item: 0.02 + 0.1 late; second: 0.02 + 1.0 - 0.5
        assert!((bound.seconds(NET, 1.0, 0.0) - 1.52).abs() < 1e-9);
        assert!((bound.seconds(Net::UNLIMITED, 1.0, 0.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn pages_count_once_and_only_as_far_as_the_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, vec![7; 10_000]).unwrap();
        let mut pages = Pages::default();
        pages.touch(&path, 0, 1).unwrap();
        pages.touch(&path, 4000, 200).unwrap();
        pages.touch(&path, 9_999, 1 << 40).unwrap();
        pages.touch(&path, 20_000, 1).unwrap();
        pages.touch(dir.path(), 0, 1).unwrap();
        assert_eq!(pages.seen.len(), 3);
        assert!(pages.finish().unwrap() < 200);
    }
}
