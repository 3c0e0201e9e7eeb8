//! The Debian package. `dpkg-deb` writes the archive; the names of files are in `stage.rs`, the scripts in `packaging/deb`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::archive::even_modes;
use super::files::{put, source};
use super::stage::{For, MAINTAINER, Stage};
use crate::exec;

/// What runs when the package is installed or removed.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Writes the package of one architecture.
pub(super) fn write(stage: &Stage<'_>, scratch: &Path, out: &Path) -> Result<()> {
    stage.lay_out(scratch, For::Debian)?;
    even_modes(scratch)?;
    let control = scratch.join("DEBIAN");
    let (sums, bytes) = sums(scratch)?;
    put(&control.join("md5sums"), 0o644, sums.as_bytes())?;
    for name in SCRIPTS {
        put(&control.join(name), 0o755, &source(&format!("packaging/deb/{name}"))?)?;
    }
    put(&control.join("conffiles"), 0o644, &source("packaging/deb/conffiles")?)?;
    let (release, arch) = (stage.release, stage.programs.arch.name());
    let version = format!("{}-{}", release.version, release.revision);
    let text = String::from_utf8(source("packaging/deb/control")?)?;
    let text =
        text.replace("@VERSION@", &version).replace("@ARCH@", arch).replace("@MAINTAINER@", MAINTAINER);
    put(
        &control.join("control"),
        0o644,
        text.replace("@SIZE@", &bytes.div_ceil(1024).to_string()).as_bytes(),
    )?;
    even_modes(&control)?;
    let package = out.join(format!("soci-snapshotter_{version}_{arch}.deb"));
    let mut build = exec::command(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z6", "--build"]);
    build.env("SOURCE_DATE_EPOCH", release.time.to_string());
    exec::read(build.args([scratch, &package])).map(drop)
}

/// The lines of `md5sums`, and how many bytes all files have.
fn sums(root: &Path) -> Result<(String, u64)> {
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    files.sort();
    let mut bytes = 0;
    for file in &files {
        bytes += fs::metadata(root.join(file))?.len();
    }
    // dpkg has the sums of configuration files elsewhere.
    let kept = files.iter().filter(|file| !file.starts_with("etc"));
    Ok((exec::read(exec::command(["md5sum"]).args(kept).current_dir(root))?, bytes))
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(root, &entry.path(), files)?;
        } else {
            files.push(entry.path().strip_prefix(root).context("it is below")?.to_owned());
        }
    }
    Ok(())
}
