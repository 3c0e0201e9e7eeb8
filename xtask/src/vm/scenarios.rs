//! Which scenarios run in a guest, on which disks, and what the kernel there must be able to do.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::disk;
use super::kernel::Kernel;
use super::machine::Disk;
use super::payload::{EVEN_READS, ODD_READS};

/// The first kernel with the page cache's tracepoints, and with EROFS images in files.
const FIRST: (u32, u32) = (6, 12);
/// What the product says about an older one.
const NEED: &str = "Linux 6.12";
/// Reads a second of a disk that is slower than its readers, in bytes.
const SLOW: u64 = 4_000_000;
/// MiB of a disk: what mkfs.xfs takes at least, and some.
const SIZE: u64 = 400;

/// Seconds of deaths of the daemon, for each way of mounting.
const DEATHS: u64 = 120;

/// The disks beside the root, empty.
pub(super) fn disks(dir: &Path, long: bool) -> Result<Vec<Disk>> {
    let mut all = vec![("slow-ext4", "ext4", Some(SLOW)), ("xfs", "xfs", None)];
    if long {
        all.extend([
            ("slow-xfs", "xfs", Some(SLOW)),
            ("slow-btrfs", "btrfs", Some(SLOW)),
            ("ext4", "ext4", None),
        ]);
    }
    let make = |(name, kind, bytes_per_second): (&'static str, &str, Option<u64>)| {
        let file = dir.join(format!("{name}.img"));
        disk::empty(kind, &file, SIZE)?;
        Ok(Disk { name, file, bytes_per_second })
    };
    all.into_iter().map(make).collect()
}

/// What scripts are told of their kernel.
pub(super) fn environment(kernel: &Kernel) -> String {
    let yes = if kernel.version() >= FIRST { "yes" } else { "no" };
    format!("export EBPF={yes} EROFS={yes} NEED='{NEED}'\n")
}

/// The scenarios, one after the other.
pub(super) fn script(kernel: &Kernel, long: bool) -> String {
    let sizes = |sizes: &[u64]| sizes.iter().map(u64::to_string).collect::<Vec<_>>().join(" ");
    let (odd, all) = (sizes(&ODD_READS), sizes(&[&ODD_READS[..], &EVEN_READS].concat()));
    let mut script = environment(kernel);
    let mut scenario = |words: &str| {
        let _ = writeln!(script, "sh /vm/{words} || echo '::FAILED {words}'"); // a String takes everything
    };
    scenario("smoke.sh");
    if long {
        scenario(&format!("deaths.sh {DEATHS} both"));
        scenario(&format!("reads.sh slow-ext4 slow-ext4 ext4 {all}"));
        scenario(&format!("reads.sh slow-xfs slow-xfs xfs {all}"));
        scenario(&format!("reads.sh slow-btrfs slow-btrfs btrfs {odd}"));
        scenario("mapped.sh ext4 ext4 ext4");
        scenario("mapped.sh xfs xfs xfs");
        scenario("starts.sh");
    } else {
        scenario(&format!("reads.sh slow slow-ext4 ext4 {odd}"));
        scenario("mapped.sh xfs xfs xfs");
    }
    scenario("log.sh");
    script
}
