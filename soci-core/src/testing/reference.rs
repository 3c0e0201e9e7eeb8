//! Unpacks an image with GNU tar, layer by layer: an oracle that shares no code with the product.
//!
//! Owns nothing. Invariant: whiteouts hide what lower layers brought, never what their own layer brings.
//! Needs the `tar` program, and root for owners, devices and privileged extended attributes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Unpacks the layer files (plain or compressed tars), lowest first, into `dest`, which must exist.
pub fn unpack(layers: &[impl AsRef<Path>], dest: &Path) -> io::Result<()> {
    layers.iter().try_for_each(|layer| unpack_layer(layer.as_ref(), dest))
}

fn unpack_layer(layer: &Path, dest: &Path) -> io::Result<()> {
    let names = list(layer)?;
    let kept = directory_times(dest)?;
    for name in &names {
        let Some(path) = inside(name) else { continue };
        let base = path.file_name().unwrap_or_default().as_bytes();
        let parent = path.parent().unwrap_or(Path::new(""));
        if base == OPAQUE {
            empty(&dest.join(parent))?;
        } else if let Some(hidden) = base.strip_prefix(WHITEOUT) {
            remove(&dest.join(parent).join(OsStr::from_bytes(hidden)))?;
        }
    }
    for name in &names {
        let Some(path) = inside(name) else { continue };
        let target = dest.join(path);
        let replaces = match target.symlink_metadata() {
            Ok(there) => !(name.ends_with(b"/") && there.is_dir()),
            Err(_) => false,
        };
        if replaces {
            remove(&target)?;
        }
    }
    let status = Command::new("tar")
        .args(["--extract", "--preserve-permissions", "--same-owner", "--numeric-owner"])
        .args(["--xattrs", "--xattrs-include=*", "--delay-directory-restore", "--exclude=.wh.*", "--file"])
        .arg(layer)
        .arg("--directory")
        .arg(dest)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(io::Error::other(format!("tar could not extract {}: {status}", layer.display())));
    }
    // Changing what a directory holds changed its time; only the layer's own entry for it may.
    let named: BTreeSet<PathBuf> = names.iter().filter_map(|name| inside(name)).collect();
    for (path, time) in kept {
        let full = dest.join(&path);
        if !named.contains(&path) && full.symlink_metadata().is_ok_and(|there| there.is_dir()) {
            std::fs::File::open(&full)?.set_modified(time)?;
        }
    }
    Ok(())
}

/// Names in the archive, as it has them; those of directories end in `/`.
fn list(layer: &Path) -> io::Result<Vec<Vec<u8>>> {
    let output = Command::new("tar")
        .args(["--list", "--quoting-style=escape", "--file"])
        .arg(layer)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("tar could not list {}: {}", layer.display(), output.status)));
    }
    Ok(output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(unescape).collect())
}

/// Undoes GNU tar's `escape` quoting: C escapes and three-digit octal.
fn unescape(line: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            name.push(byte);
            continue;
        }
        let Some((&escape, after)) = rest.split_first() else { break };
        rest = after;
        match escape {
            b'0'..=b'7' => {
                let mut value = escape - b'0';
                for _ in 0..2 {
                    let Some((&digit @ b'0'..=b'7', after)) = rest.split_first() else { break };
                    value = value.wrapping_mul(8).wrapping_add(digit - b'0');
                    rest = after;
                }
                name.push(value);
            }
            b'a' => name.push(7),
            b'b' => name.push(8),
            b't' => name.push(9),
            b'n' => name.push(10),
            b'v' => name.push(11),
            b'f' => name.push(12),
            b'r' => name.push(13),
            other => name.push(other),
        }
    }
    name
}

/// The path that a name means, without `.` and leading `/` (empty for the root itself); `None` for names with `..`.
fn inside(name: &[u8]) -> Option<PathBuf> {
    let path = PathBuf::from(OsString::from_vec(name.to_vec()));
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => return None,
            _ => {}
        }
    }
    Some(clean)
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(there) if there.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

fn empty(dir: &Path) -> io::Result<()> {
    if !dir.symlink_metadata().is_ok_and(|there| there.is_dir()) {
        return Ok(());
    }
    std::fs::read_dir(dir)?.try_for_each(|entry| remove(&entry?.path()))
}

/// Modification times of all directories by path relative to `root`.
fn directory_times(root: &Path) -> io::Result<BTreeMap<PathBuf, SystemTime>> {
    let mut times = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        times.insert(path.clone(), full.symlink_metadata()?.modified()?);
        for entry in std::fs::read_dir(&full)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(path.join(entry.file_name()));
            }
        }
    }
    Ok(times)
}
