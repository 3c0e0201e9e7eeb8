//! Words about the workload that `record` and `run` share.
//!
//! Plain data from the command line, turned into what the libraries take.

use std::time::Duration;

use crate::global::Global;
use crate::program;
use anyhow::Result;
use clap::{Args, ValueEnum};
use recorder::until::Until;
use recorder::workload::{InitCommand, Net, Overrides, Spec, User, WorkloadError};

/// How the workload is run.
#[derive(Debug, Clone, Args)]
pub(crate) struct WorkloadArgs {
    /// Set a variable for the workload, in addition to the image's or in place of it.
    #[arg(long = "env", short = 'e', value_name = "KEY=VALUE")]
    pub(crate) env: Vec<String>,
    /// Working directory of the workload.
    #[arg(long, value_name = "DIR")]
    pub(crate) cwd: Option<String>,
    /// User and group of the workload in the image, by name or number.
    #[arg(long, short = 'u', value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Argument for the image's entrypoint, in place of its CMD; may be repeated.
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) args: Vec<String>,
    /// Network of the workload. [default: host]
    #[arg(long, value_enum)]
    pub(crate) net: Option<NetArg>,
    /// When the workload is ready. RULE is exit, 60s, log:REGEX, tcp:PORT, http:URL, exec:CMD, notify or signal; join
    /// several with " or ": the first that comes true counts. Append +5s to go on for 5 s more; ready+5s does so after
    /// whichever rule came true. Inside REGEX or CMD write "or\ " and "\+" for " or " and "+". [default: exit]
    #[arg(long = "until", value_name = "RULE[ or RULE...]")]
    pub(crate) until: Vec<Until>,
    /// The command to run, in place of the image's ENTRYPOINT and CMD; --arg replaces CMD only.
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// `--net`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetArg {
    /// A network of its own with nothing but loopback.
    None,
    /// The host's network.
    Host,
}

impl WorkloadArgs {
    /// What the user said about the process.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            command: self.command.clone(),
            args: self.args.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            user: self.user.clone(),
        }
    }

    /// All end rules together.
    pub(crate) fn until(&self) -> Result<Until> {
        Ok(Until::join(&self.until)?)
    }

    /// What may keep a workload from being seen to be ready.
    pub(crate) fn late_hint(&self) -> Option<&'static str> {
        let waits_for_text = self.until.iter().any(|until| !until.logs().is_empty());
        waits_for_text.then_some(
            "log: sees what the workload has written; many programs buffer their output when it is no terminal. Set \
             PYTHONUNBUFFERED=1 with -e, or run them by `stdbuf -oL`",
        )
    }

    /// The workload's network.
    pub(crate) fn net(&self) -> Net {
        match self.net {
            Some(NetArg::None) => Net::None,
            Some(NetArg::Host) | None => Net::Host,
        }
    }
}

/// The time after which a workload that is not ready is given up.
pub(crate) fn limit(global: &Global) -> Option<Duration> {
    (!global.timeout.is_zero()).then_some(global.timeout)
}

/// How this program executes itself as the first process of a workload.
pub(crate) fn init_command() -> Result<InitCommand> {
    Ok(InitCommand {
        program: program::own()?.into(),
        args: vec!["workload-init".into()],
        guard: vec!["workload-guard".into()],
    })
}

/// The exit code that the failure to run a command has in a shell, if this is one.
pub(crate) fn exec_code(error: &WorkloadError) -> Option<u8> {
    if let WorkloadError::Exec { code, .. } = error { Some(*code) } else { None }
}

/// Resolves the process's user and puts the workload together. `lookup` is the unpacked image, `scratch` a directory
/// for the files that are bound over the image's.
pub(crate) fn spec(
    process: recorder::workload::Process,
    net: Net,
    lookup: &std::path::Path,
    rootfs: &std::path::Path,
    scratch: &std::path::Path,
) -> Result<Spec> {
    let user = User::resolve(lookup, &process.user).map_err(WorkloadError::User)?;
    Ok(Spec::new(process, user, net, rootfs, scratch)?)
}
