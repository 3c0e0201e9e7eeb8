//! The work folder of xtask (`.lab/`, git-ignored): built images, the registry's storage, scratch roots,
//! logs. Everything below it can be deleted at any time; the next run rebuilds it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use soci_core::digest::Digest;

use crate::exec;

/// Where xtask keeps what it makes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LabArgs {
    /// Work folder for images, registry storage and scratch roots [default: .lab in the workspace]
    #[arg(long, env = "SOCI_LAB", global = true, value_name = "DIR")]
    lab: Option<PathBuf>,
}

impl LabArgs {
    /// Opens the folder, making it when it is not there.
    pub(crate) fn open(&self) -> Result<Lab> {
        let root = self.lab.clone().unwrap_or_else(|| workspace().join(".lab"));
        std::fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        Ok(Lab { root: root.canonicalize()? })
    }
}

/// An opened work folder.
#[derive(Debug, Clone)]
pub(crate) struct Lab {
    root: PathBuf,
}

impl Lab {
    /// The OCI layout of a built image.
    pub(crate) fn image(&self, name: &str) -> PathBuf {
        self.root.join("images/oci").join(name)
    }

    /// Makes and returns a folder below the work folder.
    pub(crate) fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }

    /// Like [`Self::dir`], but empty: what was there is deleted first.
    pub(crate) fn fresh_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join(name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot empty {}", dir.display()))?;
        }
        self.dir(name)
    }

    /// A C program, compiled once for each version of its source.
    pub(crate) fn compile(&self, name: &str, source: &str, libraries: &[&str]) -> Result<PathBuf> {
        let program = self.dir("bin")?.join(format!("{name}-{}", Digest::of(source.as_bytes()).hex()));
        if !program.exists() {
            let file = program.with_extension("c");
            let partial = program.with_extension("partial");
            std::fs::write(&file, source)?;
            let mut cc = exec::command(["cc", "-O2", "-Wall", "-o"]);
            exec::run(cc.args([&partial, &file]).args(libraries))?;
            std::fs::rename(&partial, &program)?;
        }
        Ok(program)
    }
}

/// The folder of the release binaries of this checkout.
pub(crate) fn release_dir() -> Result<PathBuf> {
    let xtask = std::env::current_exe()?;
    let target = xtask.parent().and_then(Path::parent).context("xtask lies in target/PROFILE")?;
    Ok(target.join("release"))
}

/// The checkout this xtask was built from.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the workspace")
}

/// Cargo as it was called, for the workspace.
pub(crate) fn cargo<'a>(words: impl IntoIterator<Item = &'a str>) -> std::process::Command {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = exec::command(std::iter::once(cargo));
    command.args(words).current_dir(workspace());
    command
}
