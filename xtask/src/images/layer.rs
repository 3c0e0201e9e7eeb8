//! Builds one layer: runs its steps over the layers below and leaves the overlay's upper directory, which
//! holds exactly what the layer adds, replaces and deletes.
//!
//! The steps run in private mount and pid namespaces that end with them (see `images/layer.sh`); the upper
//! directories stay in the work folder, because children are built over them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::recipe::{Layer, Step};
use crate::exec;
use crate::lab::Lab;

const DRIVER: &str = include_str!("../../images/layer.sh");

/// The upper directory of layer `at` of `image`.
pub(crate) fn upper_dir(lab: &Lab, image: &str, at: usize) -> Result<PathBuf> {
    Ok(lab.dir("build")?.join(format!("{image}.{at}")))
}

/// Runs the layer's steps over `lowers` (lowest first) into an emptied `upper`.
pub(crate) fn build(lab: &Lab, image: &str, layer: &Layer, lowers: &[PathBuf], upper: &Path) -> Result<()> {
    let scratch = lab.fresh_dir(&format!("build/{image}.scratch"))?;
    if upper.exists() {
        std::fs::remove_dir_all(upper).with_context(|| format!("cannot empty {}", upper.display()))?;
    }
    for dir in [upper.to_owned(), scratch.join("root"), scratch.join("work"), scratch.join("files")] {
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let lowerdirs: Vec<&str> = lowers.iter().rev().filter_map(|dir| dir.to_str()).collect();
    let mut command = exec::tethered(
        "KILL",
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"],
    );
    command.args(["bash", "-c", DRIVER, "layer.sh", &lowerdirs.join(":")]);
    for (number, step) in layer.steps.iter().enumerate() {
        match step {
            Step::Host(script) => command.args(["host", script]),
            Step::Chroot(script) => command.args(["chroot", script]),
            Step::File { path, mode, contents } => {
                let source = scratch.join("files").join(number.to_string());
                std::fs::write(&source, contents)?;
                command.args(["file", path, &format!("{mode:o}")]).arg(source)
            }
        };
    }
    command
        .env("M", scratch.join("root"))
        .env("UPPER", upper)
        .env("WORK", scratch.join("work"))
        .env("DOWNLOADS", lab.dir("downloads")?)
        .env("MIRROR", mirror()?);
    // The whole script would be echoed by exec::run: the title says more.
    eprintln!("+ layer {at} of {image}: {title}", at = lowers.len(), title = layer.title);
    let status = command.status().context("cannot start unshare")?;
    if !status.success() {
        bail!("layer \"{}\" of {image} failed ({status})", layer.title);
    }
    std::fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))
}

/// The Debian archive that this machine's apt uses.
pub(crate) fn mirror() -> Result<String> {
    let format = "$(ORIGIN)|$(COMPONENT)|$(LABEL)|$(REPO_URI)";
    let mut command = exec::command(["apt-get", "indextargets", "--format", format, "Created-By: Packages"]);
    let targets = exec::read(&mut command)?;
    targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian|main|Debian|"))
        .map(str::to_owned)
        .context("apt-get knows no Debian archive: run apt-get update, then try again")
}
