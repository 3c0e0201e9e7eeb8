//! The flags of `soci record`. Plain values.

use std::path::{Path, PathBuf};
use std::time::Duration;

use recorder::session::Output;

use super::engine::EngineArgs;
use super::workload_args::WorkloadArgs;
use super::workload_registry::WorkloadRegistry;
use crate::output::stream::Passing;

/// Where unpacked layers are when nobody says otherwise.
const STATE: &str = "/var/lib/soci-record";
/// The exit codes, for `--help`.
const EXIT_CODES: &str = "Exit codes: 0 recorded; 1 failed; 3 recorded, but accesses were lost; 4 the workload was not \
    ready in time, or ended before it was; 5 the workload failed after it was ready; 126, 127 the command could not be \
    executed; 129, 130, 143 stopped by SIGHUP, SIGINT, SIGTERM. The trace is kept whenever the workload ran.\n\n\
    Examples:\n  soci record --image registry.example/app:1 --until log:READY+1s\n  \
    soci record --rootfs /srv/app --until exit -- /srv/app/bin/start\n  \
    soci record --until tcp:80 -- nerdctl run --rm app:1\n  soci record --attach web --until 60s";

/// Record what a workload reads from its image, or a command from a directory.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The image to run: oci:DIR[:TAG], oci-archive:FILE[:TAG], or a name, which is containerd's if containerd has it
    /// (containerd://NAME: must have it) and else a registry's (docker://NAME: at once). Without it, CMD is a command of
    /// this machine that starts a container through containerd, and that container is recorded.
    #[arg(long, value_name = "IMAGE")]
    pub(super) image: Option<String>,
    /// Without an image: run CMD on this machine, as it is, and record what it reads below DIR (eBPF only).
    #[arg(long, value_name = "DIR", requires = "command", conflicts_with_all = ["image", "args", "user", "net", "keep"])]
    pub(super) rootfs: Option<PathBuf>,
    #[command(flatten)]
    pub(super) container: ContainerArgs,
    #[command(flatten)]
    pub(super) workload: WorkloadArgs,
    #[command(flatten)]
    pub(super) engine: EngineArgs,
    /// Go on this long after the workload is ready (60, 60s, 300ms, 1m30s).
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = crate::output::duration::parse)]
    pub(super) tail: Duration,
    /// Record this many times, each time from cold, and merge what most of the runs need.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) runs: u32,
    /// Directory for the results.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) out: PathBuf,
    /// Name of the results, without extension. [default: the image's, with a number when that is taken]
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
    /// Replace the results of an earlier recording.
    #[arg(long, visible_alias = "overwrite")]
    pub(super) force: bool,
    /// Directory for unpacked layers, which are kept and used again. [default: /var/lib/soci-record]
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
    /// Record nothing: remove the unpacked layers of --state that no recording uses.
    #[arg(long, exclusive = false,
          conflicts_with_all = ["image", "rootfs", "attach", "command", "runs", "out", "name", "keep", "report"])]
    pub(super) prune: bool,
    /// Keep what the workload wrote, and say where it is.
    #[arg(long)]
    pub(super) keep: bool,
    /// Exit with 0 even if accesses were lost.
    #[arg(long)]
    pub(super) allow_incomplete: bool,
    /// Also write a page beside the trace, as soci report does.
    #[arg(long)]
    pub(super) report: bool,
    /// Write the summary as JSON to standard output; what the workload writes there goes to standard error.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) registry: WorkloadRegistry,
    /// Another command goes on with the recording: it says what came of it and what is next, and writes `NAME.profile` beside.
    #[arg(skip)]
    pub(super) goes_on: bool,
}

impl Args {
    /// Where unpacked layers are.
    pub(super) fn state(&self) -> &Path {
        self.state.as_deref().unwrap_or(Path::new(STATE))
    }

    /// Where the workload's standard output and error go.
    pub(super) fn output(&self) -> Output {
        (Box::new(if self.json { Passing::Err } else { Passing::Out }), Box::new(Passing::Err))
    }
}

/// Which container is recorded, when it is not run by us.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ContainerArgs {
    /// Record a container that runs already: its id or name, the path of a cgroup, or a process id. Reads that happened
    /// before are not in the trace.
    #[arg(long, value_name = "CONTAINER|CGROUP|PID", conflicts_with_all = ["image", "command"])]
    pub(super) attach: Option<String>,
    /// Record the container with this name or ID prefix. [default: the first one that CMD starts and that is not a pod
    /// sandbox]
    #[arg(long, value_name = "NAME_OR_ID", conflicts_with_all = ["image", "attach"])]
    pub(super) container: Option<String>,
    /// Record the first container of this image that CMD starts.
    #[arg(long, value_name = "REF", conflicts_with_all = ["image", "attach"])]
    pub(super) container_image: Option<String>,
    /// End the container that CMD has started when the recording is over; it goes on otherwise.
    #[arg(long, conflicts_with_all = ["image", "attach"])]
    pub(super) stop: bool,
}
