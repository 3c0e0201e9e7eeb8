//! `cargo xtask fuzz`: the targets of `fuzz/`, built with coverage instrumentation and AddressSanitizer and run over the
//! kept corpora.
//!
//! Owns `target/fuzz` (programs, and the corpora that grow while it runs) and `fuzz/artifacts` (what broke a promise).
//! The pinned stable toolchain is enough: the flags are those that cargo-fuzz gives, and the one that stable refuses
//! (the sanitizer) is unlocked for this build alone. `cargo fuzz run TARGET` works on the same folder.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::exec;
use crate::lab::{cargo, workspace};
use crate::setup::{self, Need};

/// Instrumentation that libFuzzer reads, as cargo-fuzz sets it.
const FLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Zsanitizer=address",
    "--cfg",
    "fuzzing",
    "-Ccodegen-units=1",
];

/// Memory of one target, MiB; inputs that need more are findings. The targets themselves compare each decoder with the budget
/// of its input; this also catches what they do not look at.
const MEMORY_MIB: u32 = 2048;

/// Memory of one allocation, MiB: what the longest input may take as a whole.
const ALLOCATION_MIB: u32 = 16 * (LARGE_BYTES >> 20) + 64;

/// Seconds for one input; inputs that need more are findings. The targets measure the processor time of each decoder themselves:
/// this is for what never ends, also on a loaded machine.
const INPUT_SECONDS: u32 = 60;

/// Longest input, bytes.
const INPUT_BYTES: u32 = 64 << 10;

/// Longest input of a target of [`LARGE`], bytes.
const LARGE_BYTES: u32 = 16 << 20;

/// Targets for which the length of the input decides what it may cost. Those that make a large input of a short seed are not
/// among them.
const LARGE: [&str; 8] = [
    "fine_bundle",
    "fine_table",
    "index_json",
    "json_indent",
    "prefetch_json",
    "profile_read",
    "trace_read",
    "ztoc_open",
];

/// Seconds for each target by default, and with `--long`.
const SHORT: u64 = 5;
const LONG: u64 = 600;

/// Run the fuzz targets for a while
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this target [default: all, one after the other]
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = SHORT)]
    seconds: u64,
    /// Ten minutes for each target
    #[arg(long, conflicts_with = "seconds")]
    long: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> Result<()> {
    let known = targets()?;
    let wanted = match &args.target {
        Some(name) if known.contains(name) => vec![name.clone()],
        Some(name) => bail!("there is no fuzz target {name}; there are {}", known.join(", ")),
        None => known,
    };
    setup::ensure(&[Need::Fuzz])?;
    let triple = host()?;
    let target_dir = workspace().join("target/fuzz");
    let mut build = cargo(["build", "--release", "--locked", "--target", &triple, "--manifest-path"]);
    build.arg(workspace().join("fuzz/Cargo.toml"));
    build.env("CARGO_TARGET_DIR", &target_dir).env("RUSTC_BOOTSTRAP", "1");
    build.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    exec::run(&mut build)?;
    let mut failed = Vec::new();
    for name in &wanted {
        let found = target_dir.join("corpus").join(name);
        let artifacts = workspace().join("fuzz/artifacts").join(name);
        for dir in [&found, &artifacts] {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let mut fuzz = exec::command([target_dir.join(&triple).join("release").join(name)]);
        fuzz.arg(&found).arg(workspace().join("fuzz/corpus").join(name));
        fuzz.arg(format!("-artifact_prefix={}/", artifacts.display()));
        let longest = if LARGE.contains(&name.as_str()) { LARGE_BYTES } else { INPUT_BYTES };
        fuzz.arg(format!("-max_total_time={}", if args.long { LONG } else { args.seconds }));
        fuzz.arg(format!("-rss_limit_mb={MEMORY_MIB}")).arg(format!("-malloc_limit_mb={ALLOCATION_MIB}"));
        fuzz.arg(format!("-timeout={INPUT_SECONDS}")).arg(format!("-max_len={longest}"));
        fuzz.arg("-print_final_stats=1");
        if exec::run(&mut fuzz).is_err() {
            failed.push(format!("{name} (see {})", artifacts.display()));
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("promises were broken: {}", failed.join(", ")) }
}

/// Names of the programs in `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in fs::read_dir(workspace().join("fuzz/fuzz_targets"))? {
        names.extend(file?.path().file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// The triple that rustc builds for: with it named, build scripts and macros are not instrumented.
fn host() -> Result<String> {
    let text = exec::read(&mut exec::command(["rustc", "-vV"]))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}
