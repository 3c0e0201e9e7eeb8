//! Archives whose bytes depend on contents alone: GNU tar with sorted names, numbers for owners and one time; gzip without a time.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};

use super::Release;
use crate::exec;

/// A tar of what is in `folder`. Modes are 0755 or 0644, whatever the umask was.
pub(super) fn tar(folder: &Path, release: &Release) -> Result<Vec<u8>> {
    even_modes(folder)?;
    let mut command = exec::command(["tar", "--create", "--format=ustar", "--sort=name", "--numeric-owner"]);
    command
        .args(["--owner=0", "--group=0", &format!("--mtime=@{}", release.time), "--directory"])
        .arg(folder);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name());
    }
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
