//! Runs a command on a root file system as an OCI runtime would: own mount, pid, uts and ipc namespaces, optionally an
//! own network, the usual `/proc`, `/dev` and `/sys`, the image's environment, directory and user.
//!
//! [`Process`] says what to run (the image's words and the user's put together in `process`), [`Workload`] is the
//! running thing. The command is process 1 of its pid namespace and a direct child of ours: when it ends, or when we
//! do, the kernel kills everything in the namespace. Whoever holds a [`Workload`] owns it; dropping it kills it.
//!
//! A command of the machine itself ([`Isolation::Host`]) keeps the machine's namespaces, root, environment, directory and
//! user; its cgroup is what ends with it.
//!
//! No code runs between fork and exec: the program executes itself again with a hidden subcommand that calls
//! [`init::run`], which connects to a socket, reads a [`Spec`], prepares the namespaces and executes the command. The one
//! exception is a single system call by which what [`inside`] starts enters the workload's cgroup.

mod cgroup;
pub mod guard;
mod host;
pub mod init;
mod init_command;
pub(crate) mod inside;
mod launch;
mod mounts;
pub mod namespace;
mod process;
mod streams;
mod user;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use cgroup::{Cgroup, CgroupError, unified_root};
pub use init_command::InitCommand;
pub use launch::{Exit, Stdio, Workload};
pub use process::{Overrides, Process};
pub use user::{User, UserError};

/// The network a workload sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Net {
    /// The host's, with its name resolution.
    #[default]
    Host,
    /// A namespace of its own with nothing but a loopback interface.
    None,
}

/// What a workload shares with the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Only what an OCI runtime leaves: it is a container.
    Container,
    /// Everything: it is a command of the machine, in a cgroup of its own. What is left in that is killed when the
    /// command has ended.
    Host,
}

/// All that the first process of the namespaces has to know. Written by [`Workload::start`], read by [`init::run`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// With [`Isolation::Host`] only `process` and `cgroup` count.
    pub isolation: Isolation,
    /// Directory that becomes `/`; the workload may write to it.
    pub rootfs: PathBuf,
    /// What to run.
    pub process: Process,
    /// Who runs it.
    pub user: User,
    /// Its network.
    pub net: Net,
    /// Its host name.
    pub hostname: String,
    /// Files bound over the image's: (file of the host, path in the image).
    pub binds: Vec<(PathBuf, String)>,
    /// Directory of the cgroup that it runs in; ours when there is none.
    pub cgroup: Option<PathBuf>,
}

impl Spec {
    /// Puts a workload together as OCI runtimes do: the variables HOME and HOSTNAME where nobody has set them, and the
    /// host's name resolution (with [`Net::None`] one that knows the loopback interface only).
    ///
    /// `scratch` is a directory of the caller that lives as long as the workload.
    pub fn new(
        mut process: Process,
        user: User,
        net: Net,
        rootfs: &Path,
        scratch: &Path,
    ) -> Result<Self, WorkloadError> {
        let hostname = match net {
            Net::Host => rustix::system::uname().nodename().to_string_lossy().into_owned(),
            Net::None => "soci".to_owned(),
        };
        for (name, value) in [("HOME", &user.home), ("HOSTNAME", &hostname)] {
            if process.var(name).is_none() {
                process.env.push(format!("{name}={value}"));
            }
        }
        let file = |name: &str, text: String| -> Result<PathBuf, WorkloadError> {
            let path = scratch.join(name);
            fs::write(&path, text).map_err(WorkloadError::system("write a file for the workload"))?;
            Ok(path)
        };
        let mut binds = vec![(file("hostname", format!("{hostname}\n"))?, "etc/hostname".to_owned())];
        let own_hosts = || file("hosts", format!("127.0.0.1 localhost {hostname}\n::1 localhost\n"));
        match net {
            Net::Host => {
                let hosts = Path::new("/etc/hosts");
                let hosts = if hosts.is_file() { hosts.to_owned() } else { own_hosts()? };
                binds.push((hosts, "etc/hosts".into()));
                if Path::new("/etc/resolv.conf").is_file() {
                    binds.push(("/etc/resolv.conf".into(), "etc/resolv.conf".into()));
                }
            }
            Net::None => binds.push((own_hosts()?, "etc/hosts".into())),
        }
        let isolation = Isolation::Container;
        Ok(Self { isolation, rootfs: rootfs.into(), process, user, net, hostname, binds, cgroup: None })
    }

    /// A command that runs on this machine as its user would run it, in the cgroup `cgroup`.
    pub fn on_host(process: Process, cgroup: &Path) -> Self {
        Self {
            isolation: Isolation::Host,
            rootfs: "/".into(),
            process,
            user: User { uid: 0, gid: 0, groups: Vec::new(), home: "/".into() },
            net: Net::Host,
            hostname: String::new(),
            binds: Vec::new(),
            cgroup: Some(cgroup.into()),
        }
    }
}

/// Why a workload could not be started or watched.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The image names no command, and neither did the user.
    #[error("nothing to run: the image has no entrypoint and no command, and none was given")]
    NoCommand,
    /// An environment entry is not `KEY=VALUE`.
    #[error("bad environment entry {0:?}: expected KEY=VALUE")]
    Environment(String),
    /// The user could not be found in the image.
    #[error("user of the workload")]
    User(#[source] UserError),
    /// The child could not be made.
    #[error("cannot start {program:?}")]
    Spawn {
        /// The program that was to execute itself.
        program: OsString,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A system call of ours failed.
    #[error("{action}")]
    System {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The first process of the namespaces gave up before the command ran.
    #[error("prepare the workload: {0}")]
    Setup(String),
    /// The command could not be executed.
    #[error("cannot execute the command: {message}")]
    Exec {
        /// Why not.
        message: String,
        /// The exit code a shell would give: 127 when there is no such file, else 126.
        code: u8,
    },
}

impl WorkloadError {
    fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }

    fn os(action: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::System { action, source: errno.into() }
    }
}
