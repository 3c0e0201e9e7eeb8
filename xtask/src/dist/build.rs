//! Compiles the programs so that they need nothing of the machine they run on: no C library, no loader, no name service plugins.
//!
//! They are linked with glibc's static libraries. Its allocator and its resolver are those that the tests run with; how names
//! are resolved without plugins is in `soci-core/src/plugins.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::{Arch, Programs, arm};
use crate::exec;
use crate::lab::{Lab, cargo, workspace};
use crate::setup::{self, Need};

/// What is shipped.
pub(super) const PROGRAMS: [&str; 2] = ["soci", "soci-snapshotter-grpc"];

/// Compiles both programs.
pub(super) fn programs(arch: Arch, lab: &Lab) -> Result<Programs> {
    let triple = arch.triple();
    let mut build = cargo(["build", "--profile", "dist", "--locked", "--target", triple]);
    build.args(["--package", "soci-cli", "--package", "snapshotter", "--bins"]);
    let mut busybox = PathBuf::from("/bin/busybox");
    if arch == Arch::HOST {
        setup::ensure(&[Need::Static, Need::Busybox])?;
    } else if arch == Arch::Arm64 {
        setup::ensure(&[Need::Arm])?;
        let foreign = arm::fetch(lab)?;
        foreign.set(&mut build, has_std(triple));
        busybox = foreign.busybox();
    } else {
        bail!("{} is built on a machine of that kind", arch.name());
    }
    // Paths of this machine would be in messages of panics.
    let home = cargo_home().context("no home directory")?;
    let map = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags = ["-Ctarget-feature=+crt-static".to_owned(), map(&home, "/cargo"), map(workspace(), "/soci")];
    build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    exec::run(&mut build)?;
    let folder = workspace().join("target").join(triple).join("dist");
    for program in PROGRAMS {
        ensure_static(&folder.join(program))?;
    }
    ensure_static(&busybox)?;
    Ok(Programs { arch, folder, busybox })
}

/// Programs that are there already, for this machine, without their symbols.
pub(super) fn stripped(from: &Path, to: &Path) -> Result<Programs> {
    setup::ensure(&[Need::Static, Need::Busybox])?;
    fs::create_dir_all(to)?;
    for program in PROGRAMS {
        exec::run(exec::command(["strip", "-o"]).args([to.join(program), from.join(program)]))?;
    }
    Ok(Programs { arch: Arch::HOST, folder: to.to_owned(), busybox: PathBuf::from("/bin/busybox") })
}

/// Whether the pinned toolchain has the standard library of this target (`rustup target add`).
fn has_std(triple: &str) -> bool {
    let libdir = exec::read(
        exec::command(["rustc", "--print", "target-libdir", "--target", triple]).current_dir(workspace()),
    );
    libdir.is_ok_and(|libdir| Path::new(libdir.trim()).is_dir())
}

fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| Some(std::env::home_dir()?.join(".cargo")))
}

/// Fails when a program asks for a loader or a library.
fn ensure_static(program: &Path) -> Result<()> {
    fs::metadata(program).with_context(|| format!("{} was not built", program.display()))?;
    let text =
        exec::read(exec::command(["readelf", "--wide", "--program-headers", "--dynamic"]).arg(program))?;
    for word in ["INTERP", "(NEEDED)"] {
        ensure!(!text.contains(word), "{} is not static: {word} in\n{text}", program.display());
    }
    Ok(())
}
