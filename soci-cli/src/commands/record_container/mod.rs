//! `soci record -- CMD` and `soci record --attach`: containers that somebody else starts, or has started.
//!
//! Words in, words out: which container is meant, and how its processes are told, is the recorder's to decide. Exit codes
//! are those of `record.rs`.

mod containerd;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::Args as ClapArgs;
use recorder::capture::{Ebpf, Scope, TRACKED_MAX};
use recorder::container::attach::{self, Attached};
use recorder::container::{Container, Wanted};
use recorder::session::{
    ContainerOptions, Progress, RecordedContainer, Rules, Starter, record_attached, record_started,
};
use recorder::workload::InitCommand;
use soci_core::containerd::{Containers, Task};
use tokio::runtime::Runtime;

use self::containerd::Namespaces;
use super::record::{self, Args};
use super::workload_args::{self, limit};
use crate::cli::Global;
use crate::error::Hinted;
use crate::output::stream::Passing;

/// Processes are told by their tree.
const TREE: Scope = Scope::Tree { room: TRACKED_MAX };

/// Which container is recorded, when it is not run by us.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct ContainerArgs {
    /// Record a container that runs already: its id or name, the path of a cgroup, or a process id. The trace lacks what
    /// was read before.
    #[arg(long, value_name = "CONTAINER|CGROUP|PID", conflicts_with_all = ["image", "command"])]
    attach: Option<String>,
    /// Of the containers that CMD starts, the one with this name or (beginning of an) id. [default: the first that is no
    /// pod sandbox]
    #[arg(long, value_name = "NAME_OR_ID", conflicts_with_all = ["image", "attach"])]
    container: Option<String>,
    /// Of the containers that CMD starts, the first of this image.
    #[arg(long, value_name = "REF", conflicts_with_all = ["image", "attach"])]
    container_image: Option<String>,
    /// End the container that CMD has started when the recording is over; it goes on otherwise.
    #[arg(long, conflicts_with_all = ["image", "attach"])]
    stop: bool,
}

/// Records a container of somebody else's.
pub(super) fn run(args: &Args, global: &Global) -> Result<ExitCode> {
    refuse(args)?;
    let runtime = Runtime::new().context("start the runtime")?;
    let namespaces = Namespaces::of(&global.namespace);
    let (client, news, signals) = runtime.block_on(async {
        let client = Containers::connect(&global.socket()).await.map_err(|error| {
            Hinted::new(
                format!("containers that somebody else starts are found through containerd: {error}"),
                "--address names its socket; with --image IMAGE or --rootfs DIR, the command is the workload itself",
            )
        })?;
        let news = containerd::follow(&client, &global.socket(), namespaces.clone()).await?;
        Ok::<_, anyhow::Error>((client, news, workload_args::signals()?))
    })?;
    let bar = record::progress_bar("", args.json);
    let trace =
        |container: &Container| args.out.join(format!("{}.trace", record::name(args, &container.image)));
    let options = ContainerOptions {
        trace: &trace,
        rules: Rules { until: args.workload.until()?, tail: args.tail, timeout: limit(global) },
        news: &news,
        signals: &signals,
        stop: args.container.stop,
    };
    let mut show = |progress: &Progress| record::show(&bar, progress);
    let (_, settings) = args.engine.choice()?;
    let recorded = if let Some(text) = &args.container.attach {
        let known = runtime.block_on(containerd::running(&client, &namespaces))?;
        let (found, attached) = attach::find(text, &known)?;
        let task = Task { namespace: found.namespace.clone(), container: found.id.clone(), pid: found.pid };
        let container = runtime.block_on(containerd::describe(&client, &global.socket(), &task));
        let container = container.with_context(|| format!("container {}", found.id))?;
        say!("container:   {} of {}, {}", container.id, container.image, told(&attached));
        let scope = match attached {
            Attached::Cgroup { id, level } => Scope::Cgroup { id, level },
            Attached::Container(_) | Attached::Processes(_) => TREE,
        };
        record_attached(&mut Ebpf::watch(scope, &settings)?, container, &attached, &options, &mut show)
    } else {
        let words: Vec<OsString> = args.workload.command.iter().map(OsString::from).collect();
        let wanted =
            Wanted { name: args.container.container.clone(), image: args.container.container_image.clone() };
        let starter = Starter {
            launcher: &launcher()?,
            words: &words,
            output: (Box::new(Passing::Out), Box::new(Passing::Err)),
            wanted: &wanted,
        };
        record_started(&mut Ebpf::watch(TREE, &settings)?, starter, &options, &mut show)
    };
    bar.finish_and_clear();
    let RecordedContainer { recorded, container, trace, others, runs } = recorded?;
    if args.container.attach.is_none() {
        say!("container:   {} of {}", container.id, container.image);
    }
    if !others.is_empty() {
        say!("not in it:   {}", others.join(", "));
    }
    record::finish(args, &trace, &[], None)?;
    if runs && args.container.attach.is_none() {
        say!("container {} still runs (--stop ends it with the recording)", container.id);
    }
    Ok(ExitCode::from(record::code(args, &recorded)))
}

/// Refuses words that mean nothing here.
fn refuse(args: &Args) -> Result<()> {
    let workload = &args.workload;
    let run_only = [
        ("--env", !workload.env.is_empty()),
        ("--cwd", workload.cwd.is_some()),
        ("--user", workload.user.is_some()),
        ("--arg", !workload.args.is_empty()),
        ("--keep", args.keep),
        ("--runs", args.runs > 1),
    ];
    if let Some((flag, _)) = run_only.iter().find(|(_, given)| *given) {
        bail!("{flag} is for a workload that is run here: it needs --image");
    }
    ensure!(
        args.container.attach.is_some() || !workload.command.is_empty(),
        "nothing to record: --image IMAGE, --rootfs DIR, --attach CONTAINER, or -- a command that starts a container"
    );
    ensure!(!args.engine.is_fuse(), "containers that somebody else starts are recorded by eBPF only");
    Ok(())
}

fn told(attached: &Attached) -> &'static str {
    match attached {
        Attached::Cgroup { .. } => "by its cgroup",
        Attached::Container(_) => "by its mount namespace",
        Attached::Processes(_) => "by process tree",
    }
}

/// How this program becomes a command that dies with it.
fn launcher() -> Result<InitCommand> {
    let program = std::env::current_exe().context("find the running program")?;
    Ok(InitCommand { program: program.into(), args: vec!["tied".into(), "--".into()] })
}
