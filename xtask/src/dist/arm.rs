//! What compiles for arm64 on amd64: Debian's cross compiler for C, and the standard library of the target.
//!
//! The pinned toolchain is used where rustup has brought that library. Else Debian's `rustc-web` with the same compiler's library for
//! arm64 takes its place; it is unpacked below the work folder, where this file owns it. No package of the machine changes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::exec;
use crate::lab::Lab;

/// Of Debian 12 and 13 (updates): rustc 1.96 with its libraries for both machines; busybox for the image.
const PACKAGES: [&str; 6] = [
    "rustc-web",
    "libstd-rust-web-1.96",
    "libstd-rust-web-dev",
    "libllvm22",
    "libstd-rust-web-dev:arm64",
    "busybox-static:arm64",
];
const GCC: &str = "aarch64-linux-gnu-gcc";

/// The unpacked packages.
pub(super) struct Foreign {
    root: PathBuf,
    rustc: PathBuf,
}

impl Foreign {
    /// Has `build` compile for arm64; with the pinned toolchain if it can.
    pub(super) fn set(&self, build: &mut Command, pinned: bool) {
        build.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", GCC);
        build
            .env("CC_aarch64_unknown_linux_gnu", GCC)
            .env("AR_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-ar");
        if !pinned {
            build.env("RUSTC", &self.rustc);
        }
    }

    /// busybox without libraries.
    pub(super) fn busybox(&self) -> PathBuf {
        ["bin/busybox", "usr/bin/busybox"]
            .map(|name| self.root.join(name))
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| self.root.join("bin/busybox"))
    }
}

/// Unpacks the packages, unless they are here.
pub(super) fn fetch(lab: &Lab) -> Result<Foreign> {
    let dir = lab.dir("arm-toolchain")?;
    let foreign = Foreign { root: dir.join("root"), rustc: dir.join("rustc") };
    let unpacked = dir.join("unpacked");
    if unpacked.exists() {
        return Ok(foreign);
    }
    let packages = lab.fresh_dir("arm-toolchain/packages")?;
    for part in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(dir.join(part))?;
    }
    exec::run(apt(&dir).arg("update"))?;
    exec::run(apt(&dir).arg("download").args(PACKAGES).current_dir(&packages)).context(
        "the library for arm64 comes from Debian 12 or 13: are they this machine's archive? \
         Else: rustup target add aarch64-unknown-linux-gnu",
    )?;
    for package in fs::read_dir(&packages)? {
        exec::run(exec::command(["dpkg-deb", "-x"]).args([package?.path(), foreign.root.clone()]))?;
    }
    fs::remove_dir_all(&packages)?;
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{root}/usr/lib/x86_64-linux-gnu' exec '{root}/usr/bin/rustc' \"$@\"\n",
        root = foreign.root.display()
    );
    fs::write(&foreign.rustc, script)?;
    fs::set_permissions(&foreign.rustc, fs::Permissions::from_mode(0o755))?;
    fs::write(unpacked, "")?;
    Ok(foreign)
}

/// apt with the machine's archives, and lists of both architectures of its own.
fn apt(dir: &Path) -> Command {
    let mut command = exec::command(["apt-get", "-qq"]);
    let at = |key: &str, part: &str| format!("{key}={}", dir.join(part).display());
    for option in [
        at("Dir::State::Lists", "lists"),
        at("Dir::Cache", "cache"),
        "Dir::State::status=/dev/null".to_owned(),
        "APT::Architecture=amd64".to_owned(),
        "APT::Architectures=amd64,arm64".to_owned(),
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "Acquire::Retries=3".to_owned(),
    ] {
        command.args(["-o", &option]);
    }
    command
}
