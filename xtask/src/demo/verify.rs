//! Whether a container sees exactly its image: the same listing (names, kinds, modes, owners, times, link
//! targets, sizes, SHA-256 of every regular file) is made inside the product's container and on an
//! independent unpack, and compared line by line.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};

use crate::bench::start::Bench;
use crate::exec;
use crate::link::Link;
use crate::prepared::Prepared;
use crate::product::Mode;

const LISTING: &str = include_str!("../../demo/listing.sh");

/// Compares what each mode serves with the independent unpack; returns the number of lines compared.
pub(crate) fn image(bench: &Bench<'_>, link: &Link, image: &Prepared, modes: &[Mode]) -> Result<usize> {
    let rootfs = image.rootfs.to_string_lossy();
    let enter = "mount --bind /dev \"$1/dev\" && exec chroot \"$1\" /bin/bash -c \"$2\"";
    let words =
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", enter, "listing", &rootfs, LISTING];
    let expected = exec::read(&mut exec::tethered("KILL", words))?;
    let expected: BTreeSet<&str> = expected.lines().filter(|line| !line.starts_with("READY")).collect();
    ensure!(expected.len() > 1000, "{}: the independent unpack is nearly empty", image.name);
    for &mode in modes {
        let start = bench.workload(link, image, mode, &["/bin/bash", "-c", LISTING])?;
        let served: BTreeSet<&str> = start.lines.iter().map(String::as_str).collect();
        let missing: Vec<_> = expected.difference(&served).collect();
        let foreign: Vec<_> = served.difference(&expected).collect();
        if !missing.is_empty() || !foreign.is_empty() {
            let some = |lines: &[&&str], sign: &str| {
                lines.iter().take(10).map(|line| format!("\n{sign} {line}")).collect::<Vec<_>>().concat()
            };
            bail!(
                "{} {}: {} lines differ from an independent unpack{}{}",
                image.name,
                mode.name(),
                missing.len().max(foreign.len()),
                some(&missing, "-"),
                some(&foreign, "+")
            );
        }
    }
    Ok(expected.len())
}
