//! One measured start: a fresh root, the image cold, registry and programs warm, time and bytes until READY.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use serde_json::Value;

use crate::exec;
use crate::lab::Lab;
use crate::link::Link;
use crate::prepared::Prepared;
use crate::product::{Mode, Product};
use crate::requests::Counts;

/// What one start took.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// From the request for the image to the READY line, seconds; the snapshotter was running.
    pub(crate) ready_s: f64,
    /// From the same moment until all layers were prepared, seconds.
    pub(crate) pull_s: f64,
    /// From the same moment until the workload's first instruction, seconds.
    pub(crate) begin_s: f64,
    /// Received over the link until READY, headers of packets included.
    pub(crate) bytes: u64,
    /// What the product itself counted as received until READY.
    pub(crate) payload: u64,
    /// Answered by the registry until READY.
    pub(crate) requests: Counts,
    /// What the workload printed before READY.
    pub(crate) lines: Vec<String>,
}

/// Where and how starts are measured.
pub(crate) struct Bench<'a> {
    /// Work folder.
    pub(crate) lab: &'a Lab,
    /// The binaries.
    pub(crate) product: &'a Product,
}

impl Bench<'_> {
    /// A cold start on a fresh root.
    pub(crate) fn cold(&self, link: &Link, image: &Prepared, mode: Mode) -> Result<Start> {
        let root = self.root(image)?;
        self.chill()?;
        let start = self.start(link, image, mode, &root, &[])?;
        remove_root(&root)?;
        Ok(start)
    }

    /// A start on a fresh root with another command than the image's.
    pub(crate) fn workload(
        &self,
        link: &Link,
        image: &Prepared,
        mode: Mode,
        words: &[&str],
    ) -> Result<Start> {
        let root = self.root(image)?;
        let start = self.start(link, image, mode, &root, words)?;
        remove_root(&root)?;
        Ok(start)
    }

    /// Starts after a first one that brought everything: the shortest of `n`.
    pub(crate) fn warm(&self, link: &Link, image: &Prepared, n: usize) -> Result<Start> {
        let root = self.root(image)?;
        let mut starts = Vec::new();
        for _ in 0..=n.max(1) {
            starts.push(self.start(link, image, Mode::Warm, &root, &[])?);
        }
        remove_root(&root)?;
        let warm = starts.into_iter().skip(1).min_by(|a, b| a.ready_s.total_cmp(&b.ready_s));
        warm.context("at least one warm start was made")
    }

    /// A folder that no start has had. ext4 steps over each inode that was deleted within the last minutes, one by one: files
    /// made where the root of an earlier start was deleted take many times as long as on a node.
    fn root(&self, image: &Prepared) -> Result<PathBuf> {
        let roots = self.lab.dir("scratch/roots")?;
        for left in fs::read_dir(&roots)? {
            remove_root(&left?.path())?;
        }
        spread(&roots)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let root = roots.join(format!("{}-{now}", image.name));
        fs::create_dir(&root).with_context(|| format!("cannot create {}", root.display()))?;
        Ok(root)
    }

    /// Empties the page cache, then reads back what would be warm in production: the registry's files and
    /// the programs themselves. Only the image is cold then.
    fn chill(&self) -> Result<()> {
        rustix::fs::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").context("cannot drop the page cache (needs root)")?;
        read_all(&self.lab.dir("registry")?)?;
        for program in self.product.programs() {
            read_all(&program)?;
            exec::read(exec::command([program]).arg("--version"))?;
        }
        exec::read(&mut exec::tethered("TERM", ["nsenter", "--version"]))?;
        exec::read(&mut exec::command(["timeout", "--version"])).map(drop)
    }

    fn start(&self, link: &Link, image: &Prepared, mode: Mode, root: &Path, words: &[&str]) -> Result<Start> {
        let report = self.lab.dir("scratch")?.join("report.json");
        let log = self.lab.dir("log")?.join("soci-run.log");
        let words = self.product.run(image.reference(mode), mode, root, &report, words);
        let (bytes, asked_from) = (link.received()?, link.log_end()?);
        let mut child = link
            .client(&words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start soci run")?;
        let stdout = child.stdout.take().context("soci run has a stdout")?;
        let mut lines = Vec::new();
        let mut ready = None;
        for line in BufReader::new(stdout).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            if ready.is_none() && line.starts_with("READY") {
                ready = Some((link.received()?, link.log_end()?));
            } else if ready.is_none() {
                lines.push(line);
            }
        }
        let status = child.wait()?;
        let said = || fs::read_to_string(&log).unwrap_or_default();
        let Some((bytes_then, asked_to)) = ready else {
            let tail = lines.iter().rev().take(5).rev().cloned().collect::<Vec<_>>().join("\n");
            bail!("{} {}: not READY ({status})\n{}\n{tail}", image.name, mode.name(), said());
        };
        if !status.success() {
            bail!("{} {}: READY, but then {status}\n{}", image.name, mode.name(), said());
        }
        let report: Value = serde_json::from_slice(&fs::read(&report)?)?;
        let seconds =
            |key: &str| report[key].as_f64().with_context(|| format!("the report of soci run has no {key}"));
        Ok(Start {
            ready_s: seconds("ready_s")?,
            pull_s: seconds("pull_s")?,
            begin_s: seconds("start_s")?,
            bytes: bytes_then - bytes,
            payload: report["bytes"].as_u64().context("the report of soci run has no bytes")?,
            requests: image.catalogue.count(&link.log(asked_from..asked_to)?),
            lines,
        })
    }
}

/// Removes a root; a mount that `soci run` left in it is an error, and nothing is deleted then.
fn remove_root(root: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let left =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).find(|at| Path::new(at).starts_with(root));
    if let Some(left) = left {
        bail!("{left} is still mounted: unmount it before its folder is reused");
    }
    match fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", root.display()))
        }
        _ => Ok(()),
    }
}

/// Lets ext4 put each folder made in `dir` somewhere else on the disk. Other file systems do not know the flag and do not need it.
fn spread(dir: &Path) -> Result<()> {
    let dir = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
    if let Ok(flags) = ioctl_getflags(&dir) {
        let _ = ioctl_setflags(&dir, flags | IFlags::TOPDIR);
    }
    Ok(())
}

/// Reads a file, or all files below a folder, into the page cache.
fn read_all(path: &Path) -> Result<()> {
    if path.is_dir() {
        for child in fs::read_dir(path)? {
            read_all(&child?.path())?;
        }
    } else {
        io::copy(&mut File::open(path)?, &mut io::sink())?;
    }
    Ok(())
}
