//! `cargo xtask dist`: what is shipped. Static programs for each architecture, and from them Debian packages, tarballs, a container
//! image, the Helm chart, a bill of materials and checksums, all in `target/dist`.
//!
//! Owns the folder that it writes. What must always hold: the same programs at the same commit give the same bytes; times in
//! archives are those of the commit (or `SOURCE_DATE_EPOCH`). docs/design/0014 has the reasons.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::exec;
use crate::lab::{LabArgs, workspace};
use crate::setup::{self, Need};
use materials::Materials;
use stage::Stage;

mod archive;
mod arm;
mod build;
mod deb;
mod files;
mod image;
mod materials;
mod pages;
mod stage;
mod tarball;

/// Make the packages: static programs, deb, tarball, container image, chart, bill of materials, checksums
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For these architectures
    #[arg(long = "arch", value_enum, value_delimiter = ',', default_values = ["amd64", "arm64"])]
    arches: Vec<Arch>,
    /// Package the programs of this folder (stripped), of this machine's architecture, in place of compiling
    #[arg(long, value_name = "DIR", conflicts_with = "arches")]
    binaries: Option<PathBuf>,
    /// Where everything goes [default: target/dist]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Revision of the Debian package
    #[arg(long, default_value_t = 1)]
    revision: u32,
    #[command(flatten)]
    lab: LabArgs,
}

/// An architecture, by Debian's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// That of this program.
    const HOST: Self = if cfg!(target_arch = "aarch64") { Self::Arm64 } else { Self::Amd64 };

    /// As Debian and OCI call it.
    const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// As rustc calls it.
    const fn triple(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// The programs of one architecture.
struct Programs {
    arch: Arch,
    /// The folder that has both.
    folder: PathBuf,
    /// A static busybox, for the image.
    busybox: PathBuf,
}

/// What goes into names and times.
struct Release {
    version: String,
    revision: u32,
    /// Seconds since 1970.
    time: u64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| workspace().join("target/dist"));
    write(&args.lab, args.binaries.as_deref(), &args.arches, &out, args.revision)
}

/// Makes everything in `out`: of the programs in `binaries`, else of what is shipped.
pub(crate) fn make(lab: &LabArgs, binaries: Option<&Path>, out: &Path, revision: u32) -> Result<()> {
    write(lab, binaries, &[Arch::Amd64, Arch::Arm64], out, revision)
}

fn write(lab: &LabArgs, binaries: Option<&Path>, arches: &[Arch], out: &Path, revision: u32) -> Result<()> {
    setup::ensure(&[Need::Packages])?;
    let release = Release { version: version()?, revision, time: time()? };
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let programs = if let Some(folder) = binaries {
        vec![build::stripped(folder, &scratch.path().join("stripped"))?]
    } else {
        let lab = lab.open()?;
        arches.iter().map(|arch| build::programs(*arch, &lab)).collect::<Result<_>>()?
    };
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("cannot empty {}", out.display()))?;
    }
    fs::create_dir_all(out)?;

    let materials = Materials::read(Arch::HOST, release.time)?;
    fs::write(out.join(format!("soci-{}.cdx.json", release.version)), materials.bill(&release)?)?;
    let licences = materials.licences();
    fs::write(out.join(format!("soci-{}.licenses.txt", release.version)), &licences)?;
    let pages = pages::make(&programs, &scratch.path().join("pages"))?;
    for programs in &programs {
        let stage = Stage { programs, release: &release, pages: &pages, licences: &licences };
        let at = |name: &str| scratch.path().join(format!("{name}-{}", programs.arch.name()));
        deb::write(&stage, &at("deb"), out)?;
        tarball::tarball(&stage, &at("tar"), out)?;
    }
    image::write(&programs, &release, &scratch.path().join("image"), out)?;
    tarball::chart(&release, scratch.path(), out)?;
    checksums(out)
}

/// The workspace's version.
fn version() -> Result<String> {
    let manifest = fs::read_to_string(workspace().join("Cargo.toml"))?;
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    Ok(line.context("Cargo.toml has a version")?.to_owned())
}

/// The time of all files: `SOURCE_DATE_EPOCH`, else that of the commit.
fn time() -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => exec::read(exec::command(["git", "log", "-1", "--format=%ct"]).current_dir(workspace()))
            .context("without git, set SOURCE_DATE_EPOCH to the seconds since 1970 that files are to have")?,
    };
    text.trim().parse().with_context(|| format!("{:?} are no seconds since 1970", text.trim()))
}

/// Writes `SHA256SUMS` of all that is in the folder, and says what there is.
fn checksums(out: &Path) -> Result<()> {
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(out)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    ensure!(!names.is_empty(), "{} is empty", out.display());
    let sums = exec::read(exec::command(["sha256sum"]).args(&names).current_dir(out))?;
    fs::write(out.join("SHA256SUMS"), &sums)?;
    print!("{sums}");
    println!("in {}", out.display());
    Ok(())
}
