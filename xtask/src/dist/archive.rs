//! Archives whose bytes depend on contents alone: GNU tar with sorted names, numbers for owners and one time; gzip without a time.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};

use super::Release;
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

/// A tar of what is in `folder`. Modes are 0755 or 0644, whatever the umask was.
pub(super) fn tar(folder: &Path, release: &Release) -> Result<Vec<u8>> {
    even_modes(folder)?;
    let mut command = exec::command(["tar", "--create", "--format=ustar", "--sort=name", "--numeric-owner"]);
    command
        .args(["--owner=0", "--group=0", &format!("--mtime=@{}", release.time), "--directory"])
        .arg(folder);
    let mut names: Vec<_> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    let output = command.args(names).output().context("cannot start tar")?;
    anyhow::ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// Level of archives: what more levels gain costs a second for each.
pub(super) const ARCHIVE: u32 = 6;

/// gzip without a time.
pub(super) fn gzip(plain: &[u8], level: u32) -> Result<Vec<u8>> {
    let mut encoder =
        GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::new(level));
    encoder.write_all(plain)?;
    Ok(encoder.finish()?)
}

/// Folders and programs 0755, other files 0644.
pub(super) fn even_modes(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            continue;
        }
        let runs = entry.metadata()?.permissions().mode() & 0o100 != 0;
        let mode = if kind.is_dir() || runs { 0o755 } else { 0o644 };
        fs::set_permissions(entry.path(), fs::Permissions::from_mode(mode))?;
        if kind.is_dir() {
            even_modes(&entry.path())?;
        }
    }
    Ok(())
}
