//! The flags that choose the engine of a recording, and what is said about the choice.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use recorder::capture::{RING_BYTES, Settings};
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
    /// With --engine ebpf: record the exact bytes of reading calls, O_DIRECT, and openings.
    #[arg(long)]
    exact: bool,
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
        if self.exact && self.engine != EngineArg::Ebpf {
            bail!("--exact needs --engine ebpf: no other engine sees calls");
        }
        let settings = Settings { ring_bytes: self.ring_buffer, exact: self.exact, ..Settings::default() };
        Ok((self.engine(), settings))
    }

    fn engine(&self) -> Engine {
        match self.engine {
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
