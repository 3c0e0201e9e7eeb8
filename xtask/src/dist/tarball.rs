//! What is unpacked by hand or by helm: the tarball of an architecture, and the chart.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::Release;
use super::archive::{ARCHIVE, gzip, tar};
use super::stage::{For, Stage};
use crate::exec;
use crate::lab::workspace;

/// The tarball of one architecture.
pub(super) fn tarball(stage: &Stage<'_>, scratch: &Path, out: &Path) -> Result<()> {
    let name = format!("soci-{}-linux-{}", stage.release.version, stage.programs.arch.name());
    let top = scratch.join(&name);
    stage.lay_out(&top, For::Hand)?;
    let plain = tar(scratch, stage.release)?;
    Ok(fs::write(out.join(format!("{name}.tar.gz")), gzip(&plain, ARCHIVE)?)?)
}

/// The chart, as `helm package` lays it out: with the version of the release, and what the pods share with the packages.
pub(super) fn chart(release: &Release, scratch: &Path, out: &Path) -> Result<()> {
    let folder = scratch.join("chart");
    let to = folder.join("soci-snapshotter");
    fs::create_dir_all(&folder)?;
    exec::run(exec::command(["cp", "-r"]).args([workspace().join("packaging/chart"), to]))?;
    let plain = tar(&folder, release)?;
    Ok(fs::write(
        out.join(format!("soci-snapshotter-chart-{}.tgz", release.version)),
        gzip(&plain, ARCHIVE)?,
    )?)
}
