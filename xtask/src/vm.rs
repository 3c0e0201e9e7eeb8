//! `cargo xtask vm`: the product on other kernels. Boots Debian's kernels under qemu's software emulation and runs scenarios
//! there, or a command; needs neither root nor KVM.
//!
//! Owns `target/vm`: kernels by their version, and the files of one run. Everything there can be deleted at any time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::chaos::build_successor;
use crate::exec;
use crate::lab::{Lab, LabArgs, cargo};
use crate::setup::{self, Need};
use archive::Series;
use guest::Guest;
use host::Host;
use kernel::Kernel;
use machine::{Disk, Ended, Machine};
use outcome::{Check, Outcome};

mod archive;
mod disk;
mod guest;
mod host;
mod judge;
mod kernel;
mod machine;
mod outcome;
mod payload;
mod scenarios;
mod tests;

/// Memory of a guest.
const MEMORY_MIB: u32 = 2048;

/// Boot Debian's kernels in virtual machines and run the product there
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernels: of bookworm, of trixie, and what sid has today
    #[arg(long = "kernel", value_enum, value_delimiter = ',', default_values = ["6.1", "6.12", "newest"])]
    kernels: Vec<Series>,
    /// Take longer: further file systems, sizes of reads and ways to start
    #[arg(long, conflicts_with = "command")]
    long: bool,
    /// Take kernels that are here already, without asking the archive
    #[arg(long)]
    cached: bool,
    /// Use the release build: a guest is faster, the build takes minutes
    #[arg(long)]
    release: bool,
    /// Take the product's programs from this folder, and build nothing
    #[arg(long, value_name = "DIR", conflicts_with = "release")]
    programs: Option<PathBuf>,
    /// Seconds after which a guest is ended [default: 900, with --long or --tests 3600]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Run the privileged tests whose names have one of these words instead, on this machine's root (shown to the guest
    /// read-only; needs root here). The words are module names of tests/privileged, as in `ebpf,doctor,truth`, or names of tests with their module
    #[arg(long, value_delimiter = ',', value_name = "WORDS", conflicts_with_all = ["command", "long"])]
    tests: Vec<String>,
    #[command(flatten)]
    lab: LabArgs,
    /// Run this in each guest instead: a shell command line, with the product, busybox, docker-registry, access, reader and
    /// the images oci:/img/app:1 and oci:/img/reads:1 at hand
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Need::Vm, Need::Registry])?;
    if !args.tests.is_empty() {
        return tests::run(args);
    }
    let binaries = match &args.programs {
        Some(dir) => dir.clone(),
        None => build(args.release)?,
    };
    let runner = Runner::new(args, &args.lab.open()?, &binaries)?;
    if args.command.is_empty() { runner.scenarios() } else { runner.command(&args.command.join(" ")) }
}

/// The short scenarios on all kernels, with programs that are built already.
pub(crate) fn short(lab: &LabArgs, binaries: &Path) -> Result<()> {
    let args = Args {
        kernels: vec![Series::Old, Series::Middle, Series::Newest],
        long: false,
        cached: false,
        release: false,
        programs: None,
        timeout: None,
        tests: Vec::new(),
        lab: lab.clone(),
        command: Vec::new(),
    };
    Runner::new(&args, &lab.open()?, binaries)?.scenarios()
}

fn build(release: bool) -> Result<PathBuf> {
    // As the tests are built: with other packages, dependencies would have other features, and be compiled again.
    let mut command = cargo(["build", "--bins", "--workspace", "--locked"]);
    if release {
        command.arg("--release");
    }
    exec::run(&mut command)?;
    build_successor(if release { &["--release"] } else { &[] })?;
    Ok(target()?.join(if release { "release" } else { "debug" }))
}

fn target() -> Result<PathBuf> {
    let xtask = std::env::current_exe()?;
    Ok(xtask.parent().and_then(Path::parent).context("xtask lies in target/PROFILE")?.to_owned())
}

/// Guests in the making: kernels, and the root that all of them have.
struct Runner<'a> {
    args: &'a Args,
    work: PathBuf,
    kernels: Vec<Kernel>,
    root: PathBuf,
    disks: Vec<Disk>,
    /// Only one run at a time uses the folder.
    _lock: fs::File,
}

impl<'a> Runner<'a> {
    fn new(args: &'a Args, lab: &Lab, binaries: &Path) -> Result<Self> {
        let mut runner = Self::of(args, |run| {
            let guest = Guest::new(run.join("tree"))?;
            payload::put(&guest, lab, binaries, args.long)?;
            Ok(guest)
        })?;
        runner.disks = scenarios::disks(&runner.work, args.long)?;
        Ok(runner)
    }

    /// With the root that `make` makes in an empty folder.
    fn of(args: &'a Args, make: impl FnOnce(&Path) -> Result<Guest>) -> Result<Self> {
        let work = target()?.join("vm");
        fs::create_dir_all(&work)?;
        let lock = fs::File::create(work.join("lock"))?;
        lock.lock().context("cannot lock target/vm")?;
        let get = if args.cached { Kernel::cached } else { Kernel::get };
        let kernels = args.kernels.iter().map(|series| get(&work, *series)).collect::<Result<Vec<_>>>()?;

        let run = work.join("run");
        if run.exists() {
            fs::remove_dir_all(&run)?;
        }
        fs::create_dir_all(&run)?;
        eprintln!("+ the guests' root");
        let root = run.join("root.img");
        make(&run)?.finish(&root)?;
        Ok(Self { args, work: run, kernels, root, disks: Vec::new(), _lock: lock })
    }

    /// The checks of all scenarios on every kernel, as a table.
    fn scenarios(&self) -> Result<()> {
        let mut columns = Vec::new();
        for kernel in &self.kernels {
            let mut outcome = Outcome::new();
            let script = scenarios::script(kernel, self.args.long);
            let ended = self.boot(kernel, &script, |line| {
                outcome.take(line);
                println!("    {}", line.trim_start_matches(':'));
            })?;
            ensure!(ended.code == 0, "the scenarios on {} ended with code {}", kernel.release, ended.code);
            outcome.checks.extend(judge::judge(&self.dir(kernel).join("out"))?);
            columns.push((kernel.release.clone(), outcome.checks));
        }
        let short = |release: &str| release.trim_end_matches("-amd64").to_owned();
        let columns: Vec<(String, Vec<Check>)> =
            columns.into_iter().map(|(release, checks)| (short(&release), checks)).collect();
        println!("\n{}", outcome::table(&columns));
        let failed: Vec<(&String, &Check)> = columns
            .iter()
            .flat_map(|(kernel, checks)| {
                checks.iter().filter(|check| !check.good).map(move |check| (kernel, check))
            })
            .collect();
        for (kernel, check) in &failed {
            println!("FAILED on {kernel}: {}", check.name);
            for line in &check.more {
                println!("    {line}");
            }
        }
        if !failed.is_empty() {
            bail!("{} checks failed; what the guests left is in {}", failed.len(), self.work.display());
        }
        Ok(())
    }

    /// A command on every kernel.
    fn command(&self, words: &str) -> Result<()> {
        let mut failed = Vec::new();
        for kernel in &self.kernels {
            let script = format!("{}{words}\n", scenarios::environment(kernel));
            let ended = self.boot(kernel, &script, |line| println!("{line}"))?;
            if ended.code != 0 {
                failed.push(format!("{} (code {})", kernel.release, ended.code));
            }
        }
        ensure!(failed.is_empty(), "the command failed on {}", failed.join(", "));
        Ok(())
    }

    fn dir(&self, kernel: &Kernel) -> PathBuf {
        self.work.join(kernel.series.name())
    }

    fn boot(&self, kernel: &Kernel, script: &str, line: impl FnMut(&str)) -> Result<Ended> {
        let long = self.args.long || !self.args.tests.is_empty();
        let limit = self.args.timeout.unwrap_or(if long { 3600 } else { 900 });
        let dir = self.dir(kernel);
        fs::create_dir_all(&dir)?;
        let host = if self.args.tests.is_empty() { None } else { Some(Host::start(&dir)?) };
        let machine = Machine {
            kernel,
            root: &self.root,
            disks: &self.disks,
            host: host.as_ref().map(Host::socket),
            memory_mib: MEMORY_MIB,
            limit: Duration::from_secs(limit),
        };
        eprintln!("+ Linux {} ({})", kernel.release, kernel.series.name());
        let begin = Instant::now();
        let ended = machine.run(&dir, script, line).with_context(|| format!("Linux {}", kernel.release))?;
        fs::write(dir.join("console"), &ended.console)?;
        eprintln!("+ Linux {}: {:.1} s", kernel.release, begin.elapsed().as_secs_f64());
        Ok(ended)
    }
}
