//! `soci record -- CMD` and `soci record --attach`: containers that somebody else starts, or has started.
//!
//! Words in, words out: which container is meant, and how its processes are told, is the recorder's to decide. Exit codes
//! are those of `record.rs`.

mod containerd;

use std::cell::OnceCell;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use recorder::capture::{Ebpf, Scope, TRACKED_MAX};
use recorder::container::attach::{self, Attached};
use recorder::container::{Container, Wanted};
use recorder::session::{
    ContainerOptions, ContainerSessionError, Progress, RecordedContainer, Rules, Starter, record_attached,
    record_started,
};
use recorder::workload::InitCommand;
use soci_core::containerd::{Containers, Task};
use tokio::runtime::Handle;

use self::containerd::Namespaces;
use super::partial_trace::{leave, partial, publish};
use super::record_args::Args;
use super::record_once;
use super::results::Results;
use super::stop::{Stop, Stopped};
use super::workload_args::limit;
use crate::global::Global;
use crate::hint::Hinted;
use crate::program;

/// Processes are told by their tree.
const TREE: Scope = Scope::Tree { room: TRACKED_MAX };

/// Records a container of somebody else's.
pub(super) fn run(args: &Args, global: &Global, stop: &Stop, runtime: &Handle) -> Result<ExitCode> {
    refuse(args)?;
    if args.name.is_some() {
        Results::choose(args, "")?; // before anything is started
    }
    let namespaces = Namespaces::of(global);
    let socket = global.socket();
    let (client, news) = runtime.block_on(stop.or(async {
        let client = Containers::connect(&socket).await.map_err(|error| {
            Hinted::new(
                format!("containers that somebody else starts are found through containerd: {error}"),
                "--address names its socket; with --image IMAGE or --rootfs DIR, the command is the workload itself",
            )
        })?;
        let news = containerd::follow(&client, &socket, namespaces.clone()).await?;
        Ok::<_, anyhow::Error>((client, news))
    }))?;
    let bar = record_once::progress_bar("", args.json);
    // Chosen when the container is known, of which they may have their name.
    let results = OnceCell::new();
    let trace = |container: &Container| {
        let choose = || Results::choose(args, &container.image).map_err(|error| format!("{error:#}"));
        results
            .get_or_init(choose)
            .as_ref()
            .map(|results| partial(&results.trace()))
            .map_err(|error| io::Error::other(error.clone()))
    };
    let options = ContainerOptions {
        trace: &trace,
        rules: Rules { until: args.workload.until()?, tail: args.tail, timeout: limit(global) },
        news: &news,
        signals: stop.signals(),
        stop: args.container.stop,
    };
    let mut show = |progress: &Progress| record_once::show(&bar, progress);
    let (_, settings) = args.engine.choice()?;
    let recorded = if let Some(text) = &args.container.attach {
        let known = runtime.block_on(stop.or(containerd::running(&client, &namespaces)))?;
        let (found, attached) = attach::find(text, &known)?;
        let task = Task { namespace: found.namespace.clone(), container: found.id.clone(), pid: found.pid };
        let container = runtime.block_on(stop.or(containerd::describe(&client, &socket, &task)));
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
        let starter =
            Starter { launcher: &launcher()?, words: &words, output: args.output(), wanted: &wanted };
        record_started(&mut Ebpf::watch(TREE, &settings)?, starter, &options, &mut show)
    };
    bar.finish_and_clear();
    if recorded.is_err()
        && let Some(Ok(results)) = results.get()
    {
        leave(&results.trace());
    }
    let RecordedContainer { recorded, container, others, runs, .. } = match recorded {
        Err(ContainerSessionError::Stopped(signal)) => return Err(Stopped::Signal(signal).into()),
        Err(ContainerSessionError::TimedOut) => return Err(Stopped::TimedOut.into()),
        recorded => recorded?,
    };
    let results = results.into_inner().context("no trace was made")?.map_err(anyhow::Error::msg)?;
    publish(&results.trace())?;
    if args.container.attach.is_none() {
        say!("container:   {} of {}", container.id, container.image);
    }
    if !others.is_empty() {
        say!("not in it:   {}", others.join(", "));
    }
    record_once::finish(args, &results, &[], None)?;
    if args.container.attach.is_some() && recorded.accesses == 0 {
        say!("note: the container has read nothing of its image since the recording was attached");
    }
    if runs && args.container.attach.is_none() {
        say!("container {} still runs (--stop ends it with the recording)", container.id);
    }
    Ok(ExitCode::from(record_once::code(args, &recorded)))
}

/// Refuses words that mean nothing here.
fn refuse(args: &Args) -> Result<()> {
    let workload = &args.workload;
    ensure!(
        args.container.attach.is_some() || !workload.command.is_empty(),
        "nothing to record: --image IMAGE, --rootfs DIR, --attach CONTAINER, or -- a command that starts a container"
    );
    let of_ours = [
        ("--env", !workload.env.is_empty()),
        ("--cwd", workload.cwd.is_some()),
        ("--runs", args.runs > 1),
        ("--state", args.state.is_some()),
    ];
    if let Some((flag, _)) = of_ours.iter().find(|(_, given)| *given) {
        bail!("{flag} is for a workload that is run here: it needs --image or --rootfs");
    }
    let of_images = [
        ("--user", workload.user.is_some()),
        ("--arg", !workload.args.is_empty()),
        ("--net", workload.net.is_some()),
        ("--keep", args.keep),
    ];
    let of_images = of_images.iter().find(|(_, given)| *given).map(|(flag, _)| *flag);
    if let Some(flag) = of_images.or(args.registry.given()) {
        bail!("{flag} is for an image that is run here: it needs --image");
    }
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
    Ok(InitCommand {
        program: program::own()?.into(),
        args: vec!["tied".into(), "--".into()],
        guard: vec!["workload-guard".into()],
    })
}
