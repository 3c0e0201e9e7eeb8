//! What the tests of packages need (`cargo xtask test --tier packages`): packages, made three times, and the root of a node.
//!
//! The short form packages the development build of this machine, whose programs need the libraries of its Debian release. The long one
//! (`--shipped`) compiles what is shipped, for both architectures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::dist;
use crate::exec;
use crate::lab::{Lab, LabArgs, workspace};
use crate::setup::Need;

/// What the tests need of the machine.
pub(crate) const NEEDS: [Need; 7] = [
    Need::Packages,
    Need::Debootstrap,
    Need::Manual,
    Need::Registry,
    Need::Busybox,
    Need::Conformance,
    Need::Chart,
];

/// Sets what the tests look for.
pub(crate) struct Made {
    dist: PathBuf,
    root: PathBuf,
}

impl Made {
    /// Makes it: of the programs in `binaries`, or of what is shipped.
    pub(crate) fn new(lab: &LabArgs, binaries: &Path, shipped: bool) -> Result<Self> {
        let dist = workspace().join("target/packages");
        let binaries = (!shipped).then_some(binaries);
        for (run, revision) in [("1", 1), ("2", 2), ("again", 1)] {
            dist::make(lab, binaries, &dist.join(run), revision)?;
        }
        Ok(Self { dist, root: node_root(&lab.open()?)? })
    }

    /// Tells a test run about it.
    pub(crate) fn set(&self, tests: &mut Command) {
        tests.env("SOCI_DIST", &self.dist).env("SOCI_NODE_ROOT", &self.root);
    }
}

/// Debian's minimal root with systemd and containerd, made once.
fn node_root(lab: &Lab) -> Result<PathBuf> {
    /// The release of this machine and of its containerd 1.6.
    const SUITE: &str = "bookworm";
    let root = lab.dir("packages")?.join("root");
    let made = root.with_extension("made");
    if !made.exists() {
        let (root, debs) = (lab.fresh_dir("packages/root")?, lab.dir("downloads/deb")?);
        let mut debootstrap = exec::command(["debootstrap", "--variant=minbase"]);
        debootstrap.arg(format!("--cache-dir={}", debs.display()));
        debootstrap.args(["--include=systemd,systemd-sysv,procps,containerd,runc", SUITE]).arg(&root);
        exec::run(debootstrap.arg(crate::images::mirror()?))?;
        // Each node of the tests copies the root; the archives are in the lab, too.
        let archives = root.join("var/cache/apt/archives");
        fs::remove_dir_all(&archives)?;
        fs::create_dir(&archives)?;
        fs::write(made, "")?;
    }
    Ok(root)
}
