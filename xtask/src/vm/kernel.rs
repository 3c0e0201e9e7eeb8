//! A kernel that can be booted: its image, its modules on a disk of their own, and what of them leads to the disks.
//!
//! Kept below the work folder, one folder for each version of the package; complete once it has its final name.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};

use super::archive::{Package, Series, Suite};
use super::disk;
use crate::exec;

/// Changes when what is made of a package does.
const FORM: &str = "1";
/// Modules with which the root can be mounted; what is built in is no module.
const FIRST_MODULES: [&str; 7] =
    ["virtio_pci", "virtio_blk", "virtio-rng", "ext4", "fuse", "virtiofs", "overlay"];
/// Folders of modules that a guest may want; the rest is hardware that it does not have.
const MODULES: [&str; 13] = [
    "arch",
    "block",
    "crypto",
    "fs",
    "lib",
    "mm",
    "net",
    "security",
    "virt",
    "drivers/block",
    "drivers/char",
    "drivers/md",
    "drivers/virtio",
];

/// A kernel on this machine's disk.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) series: Series,
    /// As `uname -r` says it.
    pub(super) release: String,
    dir: PathBuf,
}

impl Kernel {
    /// The newest kernel of a series, from the archive when it is not here yet.
    pub(super) fn get(work: &Path, series: Series) -> Result<Self> {
        let suite = Suite::open(&work.join("apt"), series)?;
        let package = suite.kernel()?;
        let kernels = work.join("kernels").join(series.name());
        fs::create_dir_all(&kernels)?;
        let dir = kernels.join(format!("{FORM}_{}_{}", package.version.replace('/', "-"), package.release));
        if !dir.exists() {
            let before = Self::cached(work, series).ok();
            eprintln!("+ Linux {} ({}) from the archive", package.release, package.version);
            make(&suite, &package, &dir)?;
            if let Some(before) = before {
                eprintln!("+ {}: was {} the last time", series.name(), before.release);
                fs::remove_dir_all(before.dir)?;
            }
        }
        Ok(Self { series, release: package.release, dir })
    }

    /// The kernel of a series that an earlier run has left, without asking the archive.
    pub(super) fn cached(work: &Path, series: Series) -> Result<Self> {
        let kernels = work.join("kernels").join(series.name());
        for entry in fs::read_dir(&kernels).into_iter().flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if let [FORM, _, release] = name.splitn(3, '_').collect::<Vec<_>>()[..] {
                return Ok(Self { series, release: release.to_owned(), dir: kernels.join(&name) });
            }
        }
        bail!("no kernel {} below {}: run without --cached first", series.name(), kernels.display())
    }

    /// Major and minor version.
    pub(super) fn version(&self) -> (u32, u32) {
        let mut numbers = self.release.split(['.', '-', '+']).map_while(|part| part.parse().ok());
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    pub(super) fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    pub(super) fn modules(&self) -> PathBuf {
        self.dir.join("modules.img")
    }

    /// An initramfs of busybox and the first modules, without an init.
    pub(super) fn initramfs(&self) -> PathBuf {
        self.dir.join("initramfs")
    }
}

fn make(suite: &Suite, package: &Package, dir: &Path) -> Result<()> {
    let making = dir.with_extension("making");
    let _ = fs::remove_dir_all(&making); // of a run that was ended
    let (tree, modules, ram) = (making.join("tree"), making.join("modules"), making.join("ram"));
    fs::create_dir_all(&tree)?;
    suite.unpack(package, &tree)?;
    let release = &package.release;
    let kernel = find(&tree, &["-name", "vmlinuz*", "-type", "f"])?;
    fs::copy(kernel, making.join("vmlinuz"))?;

    let from = find(&tree, &["-path", &format!("*/lib/modules/{release}"), "-type", "d"])?;
    let to = modules.join("lib/modules").join(release);
    for part in MODULES {
        let (from, to) = (from.join("kernel").join(part), to.join("kernel").join(part));
        if from.exists() {
            fs::create_dir_all(to.parent().expect("it was joined"))?;
            fs::rename(&from, &to).with_context(|| format!("cannot move {}", from.display()))?;
        }
    }
    let net = from.join("kernel/drivers/net");
    fs::create_dir_all(to.join("kernel/drivers/net"))?;
    for name in ["veth.ko", "tun.ko", "dummy.ko"] {
        for compressed in ["", ".xz", ".zst"] {
            let name = format!("{name}{compressed}");
            let _ = fs::rename(net.join(&name), to.join("kernel/drivers/net").join(&name)); // where it is one
        }
    }
    for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        let _ = fs::rename(from.join(name), to.join(name)); // depmod does without them
    }
    let quoted = |words: &str| exec::read(exec::command(["sh", "-c", words, "sh"]).arg(&to)).map(drop);
    quoted(r#"find "$1" -name '*.ko.xz' -print0 | xargs -0r xz -dT0"#)?;
    quoted(r#"find "$1" -name '*.ko.zst' -print0 | xargs -0r zstd -dq --rm"#)?;
    exec::read(exec::command(["busybox", "depmod", "-b"]).arg(&modules).arg(release))?;
    first_modules(&to, &ram)?;
    archive(&ram, &making.join("initramfs"))?;
    disk::ext4(&to, &making.join("modules.img"), 4)?;
    for scratch in [tree, modules, ram] {
        fs::remove_dir_all(scratch)?;
    }
    fs::rename(&making, dir)?;
    Ok(())
}

/// The first path that find(1) gives.
fn find(dir: &Path, rule: &[&str]) -> Result<PathBuf> {
    let found = exec::read(exec::command(["find"]).arg(dir).args(rule))?;
    let first = found.lines().next().with_context(|| format!("the package has nothing for {rule:?}"))?;
    Ok(first.into())
}

/// Copies busybox and the first modules, in the order in which they are loaded.
fn first_modules(modules: &Path, ram: &Path) -> Result<()> {
    for dir in ["bin", "dev", "proc", "sys", "root", "modules"] {
        fs::create_dir_all(ram.join(dir))?;
    }
    fs::copy(busybox()?, ram.join("bin/busybox"))?;
    let dependencies = fs::read_to_string(modules.join("modules.dep"))?;
    let mut order: Vec<&str> = Vec::new();
    for module in FIRST_MODULES {
        for file in needed(&dependencies, module) {
            if !order.contains(&file) {
                order.push(file);
            }
        }
    }
    for (number, file) in order.into_iter().enumerate() {
        let name = file.rsplit('/').next().unwrap_or(file);
        fs::copy(modules.join(file), ram.join(format!("modules/{number:02}-{name}")))?;
    }
    Ok(())
}

/// A module's file, after those that it needs; nothing when it is built in.
fn needed<'a>(dependencies: &'a str, module: &str) -> Vec<&'a str> {
    let line = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(file, _)| file.rsplit('/').next().and_then(|name| name.strip_suffix(".ko")) == Some(module));
    line.map_or_else(Vec::new, |(file, needs)| needs.split_whitespace().rev().chain([file]).collect())
}

/// Where busybox is: one that needs no libraries.
pub(super) fn busybox() -> Result<PathBuf> {
    let found =
        ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|path| path.exists());
    let found = found.context("no busybox: apt-get install busybox-static")?;
    let dynamic = exec::read(exec::command(["ldd"]).arg(&found)).is_ok_and(|said| said.contains("=>"));
    ensure!(!dynamic, "{} needs libraries: apt-get install busybox-static", found.display());
    Ok(found)
}

/// Writes a folder as an archive that a kernel unpacks; root owns all of it.
pub(super) fn archive(dir: &Path, to: &Path) -> Result<()> {
    let mut cpio = exec::command(["busybox", "cpio", "-o", "-H", "newc", "-R", "0:0"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(to)?)
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start busybox")?;
    let names = exec::read(exec::command(["find", ".", "-mindepth", "1"]).current_dir(dir))?;
    cpio.stdin.take().context("cpio has an input")?.write_all(names.as_bytes())?;
    ensure!(cpio.wait()?.success(), "busybox cpio failed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_loaded_before_it() {
        let dependencies = "kernel/fs/overlayfs/overlay.ko: kernel/b.ko kernel/a.ko\nkernel/a.ko:\n";
        assert_eq!(
            needed(dependencies, "overlay"),
            ["kernel/a.ko", "kernel/b.ko", "kernel/fs/overlayfs/overlay.ko"]
        );
        assert_eq!(needed(dependencies, "ext4"), Vec::<&str>::new());
    }

    #[test]
    fn a_release_says_its_version() {
        let of = |release: &str| {
            Kernel { series: Series::Newest, release: release.into(), dir: PathBuf::new() }.version()
        };
        assert_eq!(of("6.1.0-50-cloud-amd64"), (6, 1));
        assert_eq!(of("7.2.13+deb14-cloud-amd64"), (7, 2));
        assert_eq!(of("7.3-rc1"), (7, 3));
    }
}
