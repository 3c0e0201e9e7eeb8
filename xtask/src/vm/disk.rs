//! Disks of guests: file systems in files, made without a mount, a loop device or root.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::exec;

/// An ext4 with a folder's content, all of it owned by its owners here, and so much free space (MiB).
pub(super) fn ext4(tree: &Path, file: &Path, free: u64) -> Result<()> {
    let used = exec::read(exec::command(["du", "-sm", "--apparent-size"]).arg(tree))?;
    let used: u64 = used.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let entries = exec::read(exec::command(["find"]).arg(tree).args(["-printf", "."]))?.len() as u64;
    let size = used * 21 / 20 + entries / 200 + 24 + free;
    mke2fs(file, size, &["-d", &tree.to_string_lossy(), "-O", "^has_journal,^metadata_csum"])
}

/// An empty file system of this size (MiB).
pub(super) fn empty(kind: &str, file: &Path, size: u64) -> Result<()> {
    if kind == "ext4" {
        return mke2fs(file, size, &[]);
    }
    let _ = fs::remove_file(file); // of an earlier run
    fs::File::create(file)?.set_len(size << 20)?;
    exec::read(exec::command([&format!("mkfs.{kind}"), "-q"]).arg(file)).map(drop)
}

fn mke2fs(file: &Path, size: u64, flags: &[&str]) -> Result<()> {
    let _ = fs::remove_file(file); // of an earlier run
    let mut command =
        exec::command(["mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,root_owner=0:0"]);
    exec::read(command.args(flags).arg(file).arg(format!("{size}M"))).map(drop)
}
