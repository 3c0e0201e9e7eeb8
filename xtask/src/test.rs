//! `cargo xtask test`: what must hold before a change lands. Formatting, lints, unit and integration tests,
//! then the tests that mount and enter namespaces, one at a time.
//!
//! Owns no state. A need that this machine does not meet is an error that says what to do, never a test
//! that is silently left out.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::ebpf;
use crate::exec;
use crate::lab::{LabArgs, cargo};
use crate::setup::{self, Need};

/// The test programs of tests/: what any user can run, and what needs root.
const PLAIN: &str = "plain";
const PRIVILEGED: &str = "privileged";

/// Run the tests: lints, unit and integration tests, privileged tests
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only these tiers [default: all]
    #[arg(long = "tier", value_enum, value_delimiter = ',')]
    tiers: Vec<Tier>,
    /// Also compare with the reference material in this folder
    #[arg(long, value_name = "DIR")]
    shared: Option<PathBuf>,
    /// Also compile the eBPF programs and compare with the committed object; fetches the toolchain when it is not there.
    /// Where it is, the lints do so unasked
    #[arg(long)]
    ebpf_check: bool,
    #[command(flatten)]
    lab: LabArgs,
}

/// A part of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Tier {
    /// rustfmt and clippy.
    Lint,
    /// Tests that any user can run.
    Plain,
    /// Tests that need root and FUSE, and those against a real containerd.
    Privileged,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    let wants = |tier| args.tiers.is_empty() || args.tiers.contains(&tier);
    if wants(Tier::Privileged) {
        setup::require_root("the privileged tests")?;
        setup::require_fuse()?;
        setup::ensure(&[Need::Containerd, Need::Registry, Need::Link, Need::Strace])?;
    }
    if wants(Tier::Plain) {
        setup::ensure(&[Need::Oracles, Need::Chromium, Need::Registry, Need::Skopeo])?;
    }
    let suite = Suite::new(args.shared.as_deref())?;
    if args.ebpf_check || wants(Tier::Lint) && ebpf::is_installed(&args.lab)? {
        ebpf::check(&args.lab)?;
    }
    if wants(Tier::Lint) {
        exec::run(&mut cargo(["fmt", "--all", "--check"]))?;
        exec::run(suite.cargo(&["clippy", "--all-targets"]).args(["--", "-D", "warnings"]))?;
    }
    let (plain, privileged) = (wants(Tier::Plain), wants(Tier::Privileged));
    if plain || privileged {
        exec::run(&mut suite.cargo(&["build", "--bins"]))?;
    }
    if plain {
        exec::run(&mut suite.cargo(&["test", "--doc", "--quiet"]))?;
    }
    if exec::succeeds(&mut cargo(["nextest", "--version"])) {
        suite.nextest(plain, privileged)
    } else {
        suite.libtest(plain, privileged)
    }
}

/// How cargo is called for all of the workspace.
struct Suite {
    shared: Option<PathBuf>,
    binaries: PathBuf,
}

impl Suite {
    fn new(shared: Option<&Path>) -> Result<Self> {
        let shared = shared
            .map(|dir| {
                dir.canonicalize().with_context(|| format!("--shared {}: no such folder", dir.display()))
            })
            .transpose()?;
        let xtask = std::env::current_exe()?;
        let binaries = xtask.parent().context("a program lies in a folder")?.to_owned();
        Ok(Self { shared, binaries })
    }

    /// Every step with the same packages and features, so that nothing is compiled twice.
    fn cargo(&self, words: &[&str]) -> Command {
        let mut command = cargo([words, &["--workspace", "--locked"]].concat());
        command.env("SOCI_BIN_DIR", &self.binaries);
        if let Some(shared) = &self.shared {
            command.args(["--features", "soci-tests/shared"]).env("SOCI_SHARED", shared);
        }
        command
    }

    fn nextest(&self, plain: bool, privileged: bool) -> Result<()> {
        let filter = match (plain, privileged) {
            (true, true) => "all()".to_owned(),
            (true, false) => format!("not binary(={PRIVILEGED})"),
            (false, true) => format!("binary(={PRIVILEGED})"),
            (false, false) => return Ok(()),
        };
        let profile = if std::env::var_os("CI").is_some() { "ci" } else { "default" };
        exec::run(self.cargo(&["nextest", "run", "--profile", profile]).args(["-E", &filter]))
    }

    /// Without nextest: the same tests by cargo's own runner.
    fn libtest(&self, plain: bool, privileged: bool) -> Result<()> {
        if plain {
            let mut command = self.cargo(&["test", "--no-fail-fast", "--lib", "--bins", "--test", PLAIN]);
            // The other crates' test programs: none of their names begins with that letter.
            exec::run(command.args(["--test", "[!p]*"]))?;
        }
        if privileged {
            let mut command = self.cargo(&["test", "--no-fail-fast", "--test", PRIVILEGED]);
            exec::run(command.args(["--", "--test-threads=1"]))?;
        }
        Ok(())
    }
}
