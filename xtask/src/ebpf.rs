//! `cargo xtask ebpf [--check]`: the sources of the eBPF programs -> the committed `recorder-ebpf/recorder.bpf.o`.
//!
//! Owns the toolchain below the work folder: Debian's rustc with the `core` library for the kernel's virtual machine, and
//! bpf-linker. Nothing else needs it, because the object is committed, together with the digests of its sources and of
//! itself in `recorder.bpf.sum`. A plain test compares those with the files, so that neither can change alone.
//!
//! The same sources give the same bytes: the crates are staged at one fixed place, because cargo mixes the path of a
//! crate into its symbols, and all other paths are mapped away. docs/design/0002-ebpf-object.md has the reasons.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use soci_core::digest::{Digest, Hasher};

use crate::exec;
use crate::lab::{LabArgs, workspace};
use crate::setup::{self, Need};

/// Where the sources are compiled, on every machine.
const STAGE: &str = "/tmp/soci-ebpf-stage";
const TARGET: &str = "bpfel-unknown-none";
/// Its place in the work folder.
const TOOLCHAIN: &str = "ebpf-toolchain";
const LINKER: &str = "0.13.0";
/// Debian packages (bookworm-security): rustc 1.96 with LLVM 22, and `core` for the target as bitcode.
const PACKAGES: [&str; 5] =
    ["rustc-web", "libstd-rust-web-1.96", "libstd-rust-web-dev", "libstd-rust-web-dev-bpf", "libllvm22"];
const LIBRARIES: &str = "root/usr/lib/x86_64-linux-gnu";
const LLVM: &str = "libLLVM.so.22.1";

/// Rebuild the eBPF object from its sources
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail when the committed object is not what its sources give.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    lab: LabArgs,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.check {
        return check(&args.lab);
    }
    let object = compile(&args.lab)?;
    let committed = home().join("recorder.bpf.o");
    fs::write(&committed, &object)?;
    fs::write(home().join("recorder.bpf.sum"), sum(&object)?)?;
    eprintln!("{}: {} bytes", committed.display(), object.len());
    Ok(())
}

/// Fails when the committed object is not what its sources give.
pub(crate) fn check(lab: &LabArgs) -> Result<()> {
    let object = compile(lab)?;
    let same = fs::read(home().join("recorder.bpf.o")).is_ok_and(|bytes| bytes == object);
    ensure!(same, "the object is not what its sources give: run `cargo xtask ebpf`");
    Ok(())
}

/// Is the toolchain here already?
pub(crate) fn is_installed(lab: &LabArgs) -> Result<bool> {
    Ok(lab.open()?.dir(TOOLCHAIN)?.join("bin/bpf-linker").exists())
}

/// Compiles the programs, with the toolchain fetched when it is not here.
fn compile(lab: &LabArgs) -> Result<Vec<u8>> {
    setup::ensure(&[Need::Ebpf])?;
    let lab = lab.open()?;
    let toolchain = lab.dir(TOOLCHAIN)?;
    install(&toolchain)?;
    build(&toolchain, &lab.dir("ebpf-target")?)
}

/// Puts the toolchain into `dir`, unless it is there. No package of the machine changes.
fn install(dir: &Path) -> Result<()> {
    let unpacked = dir.join("unpacked");
    if !unpacked.exists() {
        let packages = dir.join("packages");
        fs::create_dir_all(&packages)?;
        exec::run(exec::command(["apt-get", "download"]).args(PACKAGES).current_dir(&packages)).context(
            "the toolchain comes from Debian 12 (bookworm-security); is that in the package lists of this machine?",
        )?;
        for package in fs::read_dir(&packages)? {
            exec::run(exec::command(["dpkg", "-x"]).args([package?.path(), dir.join("root")]))?;
        }
        fs::remove_dir_all(&packages)?;
        fs::write(&unpacked, "")?;
    }
    let (bin, llvm) = (dir.join("bin"), dir.join("llvm/lib"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&llvm)?;
    for name in ["libLLVM.so", LLVM] {
        let link = llvm.join(name);
        let _ = fs::remove_file(&link); // it is made anew
        symlink(dir.join(LIBRARIES).join(LLVM), &link)?;
    }
    let libraries = dir.join(LIBRARIES);
    let rustc = bin.join("rustc");
    let script = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
        libraries.display(),
        dir.join("root/usr/bin/rustc").display()
    );
    fs::write(&rustc, script)?;
    fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755))?;
    if !bin.join("bpf-linker").exists() {
        let words = ["install", "bpf-linker", "--version", LINKER, "--locked", "--no-default-features"];
        let mut cargo = crate::lab::cargo(words);
        cargo.args(["--features", "llvm-22", "--quiet", "--root"]).arg(dir);
        exec::run(cargo.env("LLVM_PREFIX", dir.join("llvm")))?;
    }
    Ok(())
}

/// Compiles the programs; gives the object.
fn build(toolchain: &Path, target_dir: &Path) -> Result<Vec<u8>> {
    let stage = Path::new(STAGE);
    if stage.exists() {
        fs::remove_dir_all(stage)?;
    }
    // Fails when somebody else has made it: then it is not ours to compile in.
    fs::DirBuilder::new().mode(0o700).create(stage).with_context(|| format!("make {STAGE}"))?;
    let result = build_in(stage, toolchain, target_dir);
    let _ = fs::remove_dir_all(stage); // the result is what counts
    result
}

fn build_in(stage: &Path, toolchain: &Path, target_dir: &Path) -> Result<Vec<u8>> {
    for name in ["Cargo.toml", "recorder-ebpf/Cargo.toml"].map(PathBuf::from).into_iter().chain(sources()?) {
        let to = stage.join(&name);
        fs::create_dir_all(to.parent().context("a file is in a directory")?)?;
        fs::copy(workspace().join(&name), &to)?;
    }
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home =
        cargo_home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))).context("no home directory")?;
    let map = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags = [
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(), // for all: registers are read at offsets of the kernel's BTF
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        map(stage, "soci"),
        map(&cargo_home, "cargo"),
        map(toolchain, "rust"),
    ];
    let path = std::env::var("PATH").unwrap_or_default();
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = exec::command([&cargo, "build", "--release", "--locked", "--target", TARGET]);
    build.current_dir(stage.join("recorder-ebpf/programs"));
    build.env("RUSTC", toolchain.join("bin/rustc"));
    // aya-ebpf and the counters use inline assembly, which is not stable for this target.
    build.env("RUSTC_BOOTSTRAP", "1");
    build.env("PATH", format!("{}:{path}", toolchain.join("bin").display()));
    build.env("LD_LIBRARY_PATH", toolchain.join(LIBRARIES));
    build.env("CARGO_TARGET_DIR", target_dir);
    build.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    exec::run(&mut build)?;
    Ok(fs::read(target_dir.join(TARGET).join("release/recorder-bpf"))?)
}

/// The files that the object is made from, relative to the workspace, in order.
fn sources() -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        ["Cargo.toml", "Cargo.lock"].map(|name| Path::new("recorder-ebpf/programs").join(name)).into();
    for dir in ["recorder-ebpf/src", "recorder-ebpf/programs/src"] {
        for entry in fs::read_dir(workspace().join(dir))? {
            files.push(Path::new(dir).join(entry?.file_name()));
        }
    }
    files.sort();
    Ok(files)
}

/// What `recorder.bpf.sum` says: digests of the sources and of the object.
fn sum(object: &[u8]) -> Result<String> {
    let mut hasher = Hasher::new();
    for name in sources()? {
        let content = fs::read(workspace().join(&name))?;
        hasher.update(format!("{} {}\n", name.display(), content.len()).as_bytes());
        hasher.update(&content);
    }
    Ok(format!("sources {}\nobject  {}\n", hasher.finish(), Digest::of(object)))
}

fn home() -> PathBuf {
    workspace().join("recorder-ebpf")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_belongs_to_the_sources() {
        let object = fs::read(home().join("recorder.bpf.o")).unwrap();
        let committed = fs::read_to_string(home().join("recorder.bpf.sum")).unwrap();
        assert_eq!(committed, sum(&object).unwrap(), "run `cargo xtask ebpf`");
    }
}
