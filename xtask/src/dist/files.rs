//! Files of the checkout that are read, and files of packages that are written.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::lab::workspace;

/// A file of the checkout.
pub(super) fn source(name: &str) -> Result<Vec<u8>> {
    fs::read(workspace().join(name)).with_context(|| format!("cannot read {name}"))
}

/// Writes a file with its mode, making folders.
pub(super) fn put(to: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let folder = to.parent().context("a file is in a folder")?;
    fs::create_dir_all(folder)?;
    fs::write(to, content).with_context(|| format!("cannot write {}", to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}
