//! `cargo xtask test`: what must hold before a change lands. Formatting, lints, unit and integration tests,
//! scenarios on other kernels, then the tests that mount and enter namespaces, one at a time.
//!
//! Owns no state. A need that this machine does not meet is an error that says what to do, never a test
//! that is silently left out.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::chaos;
use crate::ebpf;
use crate::exec;
use crate::lab::{LabArgs, cargo};
use crate::packages;
use crate::setup::{self, Need};
use crate::vm;

/// The test programs of tests/: what any user can run, and what needs root.
const PLAIN: &str = "plain";
const PRIVILEGED: &str = "privileged";
/// That of packages, which runs apart because it needs what `cargo xtask dist` makes.
const PACKAGES: &str = "packages";

/// Run the tests: lints, unit and integration tests, privileged tests, scenarios on other kernels
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
    /// Test packages of what is shipped, static programs for both architectures, in place of the development build: ten minutes more
    #[arg(long)]
    shipped: bool,
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
    /// Scenarios on other kernels, in virtual machines: `cargo xtask vm`.
    Vm,
    /// A daemon that dies while containers read, and one that pulls and removes: `cargo xtask chaos` and `soak`, short.
    Chaos,
    /// Packages, installed and removed in roots of their own: `cargo xtask dist`.
    Packages,
}

/// Runs the subcommand. The tests come last, so that their runner's closing line is the last one; how long each part took
/// stands before them, and with the tests in a file of the target folder.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut durations = Durations::default();
    let wants = |tier| args.tiers.is_empty() || args.tiers.contains(&tier);
    if wants(Tier::Privileged) {
        setup::require_root("the privileged tests")?;
        setup::require_fuse()?;
        setup::ensure(&[
            Need::Containerd,
            Need::Registry,
            Need::Link,
            Need::Strace,
            Need::Disks,
            Need::Skopeo,
            Need::Conformance,
            Need::Busybox,
        ])?;
    }
    if wants(Tier::Plain) {
        setup::ensure(&[Need::Oracles, Need::Chromium, Need::Registry, Need::Skopeo])?;
    }
    if wants(Tier::Vm) {
        setup::ensure(&[Need::Vm, Need::Registry])?;
    }
    if wants(Tier::Chaos) {
        setup::require_root("chaos and soak")?;
        setup::require_fuse()?;
        setup::ensure(&chaos::NEEDS)?;
    }
    if wants(Tier::Packages) {
        setup::require_root("the tests of packages")?;
        setup::require_fuse()?;
        setup::ensure(&packages::NEEDS)?;
        if args.shipped {
            setup::ensure(&[Need::Qemu])?;
        }
    }
    let suite = Suite::new(args.shared.as_deref())?;
    if args.ebpf_check || wants(Tier::Lint) && ebpf::is_installed(&args.lab)? {
        durations.of("ebpf-check", || ebpf::check(&args.lab))?;
    }
    if wants(Tier::Lint) {
        durations.of("lint", || {
            exec::run(&mut cargo(["fmt", "--all", "--check"]))?;
            // Crates outside of the workspace: their lists of versions must be of today.
            for manifest in ["fuzz/Cargo.toml", "recorder-ebpf/programs/Cargo.toml"] {
                exec::read(&mut cargo(["tree", "--quiet", "--locked", "--manifest-path", manifest]))?;
            }
            exec::run(suite.cargo(&["clippy", "--all-targets"]).args(["--", "-D", "warnings"]))
        })?;
    }
    if args.tiers.iter().any(|tier| *tier != Tier::Lint) || args.tiers.is_empty() {
        durations.of("build", || exec::run(&mut suite.cargo(&["build", "--bins"])))?;
    }
    if wants(Tier::Vm) || wants(Tier::Chaos) {
        let features: &[&str] =
            if suite.shared.is_some() { &["--features", "soci-tests/shared"] } else { &[] };
        durations.of("successor", || chaos::build_successor(features))?;
    }
    if wants(Tier::Vm) {
        durations.of("vm", || vm::short(&args.lab, &suite.binaries))?;
    }
    if wants(Tier::Chaos) {
        durations.of("chaos", || chaos::short(&suite.binaries))?;
    }
    if wants(Tier::Packages) {
        durations.of("packages", || {
            let made = packages::Made::new(&args.lab, &suite.binaries, args.shipped)?;
            suite.packages(&made, args.shipped)
        })?;
    }
    let (plain, privileged) = (wants(Tier::Plain), wants(Tier::Privileged));
    if plain {
        durations.of("doc", || exec::run(&mut suite.cargo(&["test", "--doc", "--quiet"])))?;
    }
    if !plain && !privileged {
        return Ok(());
    }
    eprint!("{durations}");
    let result = if exec::succeeds(&mut cargo(["nextest", "--version"])) {
        let result = durations.of("tests", || suite.nextest(plain, privileged));
        // They overlap: the privileged ones run one at a time, beside the others.
        durations.0.extend(suite.times().unwrap_or_default());
        result
    } else {
        durations.of("tests", || suite.libtest(plain, privileged))
    };
    suite.keep(&durations)?;
    result
}

/// How long each part took, in seconds.
#[derive(Default)]
struct Durations(Vec<(&'static str, f64)>);

impl Durations {
    fn of(&mut self, part: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        let result = work();
        self.0.push((part, begin.elapsed().as_secs_f64()));
        result
    }
}

impl fmt::Display for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(part, seconds)| writeln!(f, "{part:>10}: {seconds:6.0} s"))
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
            (true, true) => format!("not binary(={PACKAGES})"),
            (true, false) => format!("not binary(={PRIVILEGED}) and not binary(={PACKAGES})"),
            (false, _) => format!("binary(={PRIVILEGED})"),
        };
        exec::run(self.cargo(&["nextest", "run", "--profile", profile()]).args(["-E", &filter]))
    }

    /// The tests of packages; without what needs the shipped programs unless those are there.
    fn packages(&self, made: &packages::Made, shipped: bool) -> Result<()> {
        let mut tests = if exec::succeeds(&mut cargo(["nextest", "--version"])) {
            let mut tests = self.cargo(&["nextest", "run", "--profile", profile()]);
            let without = if shipped { "" } else { " and not test(/^shipped::/)" };
            tests.args(["-E", &format!("binary(={PACKAGES}){without}")]);
            tests
        } else {
            let mut tests = self.cargo(&["test", "--no-fail-fast", "--test", PACKAGES, "--"]);
            tests.args(if shipped {
                &["--test-threads=1"][..]
            } else {
                &["--test-threads=1", "--skip", "shipped::"]
            });
            tests
        };
        made.set(&mut tests);
        exec::run(&mut tests)
    }

    /// The seconds of all tests of a tier, from the report of nextest.
    fn times(&self) -> Result<Vec<(&'static str, f64)>> {
        let report = self.target()?.join("nextest").join(profile()).join("junit.xml");
        Ok(times_of(&fs::read_to_string(report)?))
    }

    /// Keeps the durations for whoever wants to look at them.
    fn keep(&self, durations: &Durations) -> Result<()> {
        Ok(fs::write(self.target()?.join("test-seconds.txt"), durations.to_string())?)
    }

    fn target(&self) -> Result<&Path> {
        self.binaries.parent().context("programs lie in target/PROFILE")
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

fn profile() -> &'static str {
    if std::env::var_os("CI").is_some() { "ci" } else { "default" }
}

/// Sums of the seconds of test cases: of the privileged program, and of all others.
fn times_of(report: &str) -> Vec<(&'static str, f64)> {
    let (mut plain, mut privileged) = (0.0, 0.0);
    for case in report.split("<testcase ").skip(1) {
        let value =
            |key: &str| case.split_once(&format!("{key}=\""))?.1.split_once('"').map(|(value, _)| value);
        let seconds: f64 = value(" time").and_then(|text| text.parse().ok()).unwrap_or(0.0);
        let of_privileged = value("classname").is_some_and(|name| name.ends_with(&format!("::{PRIVILEGED}")));
        *if of_privileged { &mut privileged } else { &mut plain } += seconds;
    }
    let all = [("plain", plain), (PRIVILEGED, privileged)];
    all.into_iter().filter(|(_, seconds)| *seconds > 0.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_added_up_by_tier() {
        let report = r#"<testsuites><testsuite name="soci-tests::privileged" time="9">
            <testcase name="a" classname="soci-tests::privileged" timestamp="t" time="1.5"></testcase>
            <testcase name="b" classname="soci-tests::privileged" timestamp="t" time="2.5"></testcase></testsuite>
            <testcase name="c" classname="soci-core" timestamp="t" time="0.25"></testcase></testsuites>"#;
        assert_eq!(times_of(report), [("plain", 0.25), ("privileged", 4.0)]);
    }
}
