//! The flags that choose the engine of a recording, and what is said about the choice.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use recorder::capture::{RING_BYTES, Reads, Settings, Way};
use recorder::stage::{Engine, Stage};

/// How accesses are seen.
#[derive(Debug, Clone, Args)]
pub(crate) struct EngineArgs {
    /// How accesses are seen: by eBPF programs on the page cache, or by serving the files through FUSE.
    #[arg(long, value_enum, default_value_t = EngineArg::Auto)]
    engine: EngineArg,
    /// Size of the eBPF ring buffer, a power of two (8MiB); a larger one loses less.
    #[arg(long, value_name = "SIZE", default_value_t = RING_BYTES, value_parser = ring_bytes)]
    ring_buffer: u32,
    /// How the eBPF engine sees reads. Anything but `best` rules FUSE out.
    #[arg(long, value_enum, default_value_t = ReadsArg::Best)]
    reads: ReadsArg,
    /// The same as --reads exact
    #[arg(long, conflicts_with = "reads")]
    exact: bool,
}

/// `--reads`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReadsArg {
    /// The first of functions, calls and pages that this kernel allows.
    Best,
    /// The first of functions and calls that this kernel allows: the bytes that were given, O_DIRECT, and openings.
    Exact,
    /// At the end of the kernel's reading functions: io_uring and the kernel's own reads, too.
    Functions,
    /// At the end of system calls.
    Calls,
    /// By page events alone: cheap, and pages that are still being fetched may be missing. The trace counts as incomplete.
    Pages,
}

/// `--engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EngineArg {
    /// eBPF where it can be used, else FUSE.
    Auto,
    /// eBPF: the workload runs on the layers themselves.
    Ebpf,
    /// FUSE: page-exact, and slower for the workload.
    Fuse,
}

impl EngineArgs {
    /// The engine and its settings; an error when they contradict each other.
    pub(super) fn choice(&self) -> Result<(Engine, Settings)> {
        let reads = match self.reads {
            ReadsArg::Best if self.exact => Reads::Exact,
            ReadsArg::Best => Reads::Best,
            ReadsArg::Exact => Reads::Exact,
            ReadsArg::Functions => Reads::Only(Way::Functions),
            ReadsArg::Calls => Reads::Only(Way::Calls),
            ReadsArg::Pages => Reads::Only(Way::Pages),
        };
        if reads != Reads::Best && self.is_fuse() {
            bail!("--reads and --exact choose how the eBPF engine sees reads; --engine fuse has one way");
        }
        let settings = Settings { ring_bytes: self.ring_buffer, reads, ..Settings::default() };
        Ok((self.engine(reads), settings))
    }

    fn engine(&self, reads: Reads) -> Engine {
        match self.engine {
            EngineArg::Auto if reads != Reads::Best => Engine::Ebpf,
            EngineArg::Auto => Engine::Auto,
            EngineArg::Ebpf => Engine::Ebpf,
            EngineArg::Fuse => Engine::Fuse,
        }
    }

    /// Is FUSE insisted on?
    pub(super) fn is_fuse(&self) -> bool {
        self.engine == EngineArg::Fuse
    }

    /// Says on standard error which engine was taken, when the choice was not the user's.
    pub(super) fn tell(&self, stage: &mut Stage) {
        match (self.engine, stage.refused()) {
            (EngineArg::Auto, Some(error)) => {
                let reason =
                    anyhow::Chain::new(error).map(ToString::to_string).collect::<Vec<_>>().join(": ");
                say!("engine:      fuse, because eBPF cannot be used: {reason}");
            }
            (EngineArg::Auto, None) => say!("engine:      {}", stage.capture().engine()),
            _ => {}
        }
        if let Some(why) = stage.capture().partial() {
            say!("incomplete:  {why}");
        }
        if let Some(error) = stage.no_cgroup() {
            say!("scope:       the process tree, because there is no cgroup for it: {error}");
        }
    }
}

fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes = u32::try_from(crate::size::parse(text)?).map_err(|_| "too large".to_owned())?;
    let page = rustix::param::page_size();
    if !bytes.is_power_of_two() || (bytes as usize) < page {
        return Err(format!("must be a power of two and at least {page}"));
    }
    Ok(bytes)
}
