//! A thread of ours inside a running workload, and the commands that it starts there.
//!
//! [`Inside::enter`] moves the calling thread for good: it sees the workload's files, host name and network, its children
//! are processes of the workload's pid namespace, and it keeps no more rights than the workload has. The thread itself
//! stays in our cgroup, of which only whole processes can be moved; its children begin in the workload's.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::namespace::{Namespace, leave, run_in_cgroup};
use super::{Isolation, Net, Spec, WorkloadError, cgroup, host, init};

/// The calling thread as a part of a workload.
#[derive(Debug)]
pub(crate) struct Inside {
    spec: Spec,
    /// The way into the workload's cgroup, if it has one of its own.
    procs: Option<Arc<File>>,
}

impl Inside {
    /// Makes the calling thread part of the workload whose first process is `pid`; it will run `args`.
    pub(crate) fn enter(pid: u32, mut spec: Spec, args: Vec<String>) -> Result<Self, WorkloadError> {
        // While its directory is still in sight, and the right to write there is ours.
        let procs = spec.cgroup.as_deref().map(cgroup::open_procs).transpose();
        let procs = procs.map_err(WorkloadError::system("open the workload's cgroup"))?.map(Arc::new);
        match spec.isolation {
            Isolation::Container => join(pid, &spec)?,
            Isolation::Host => {
                leave(&[Namespace::Directories])
                    .map_err(WorkloadError::system("part from the other threads"))?;
                host::join(pid).map_err(WorkloadError::system("see what the workload sees"))?;
            }
        }
        spec.process.args = args;
        Ok(Self { spec, procs })
    }

    /// The command as the workload itself would execute it; else the reason and a shell's exit code.
    pub(crate) fn command(&self) -> Result<Command, (String, u8)> {
        let mut command = init::command(&self.spec)?;
        if let Some(procs) = &self.procs {
            run_in_cgroup(&mut command, Arc::clone(procs));
        }
        Ok(command)
    }
}

/// Gives the calling thread what a container has.
fn join(pid: u32, spec: &Spec) -> Result<(), WorkloadError> {
    let mut kinds = vec![
        ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
        ("ipc", LinkNameSpaceType::InterProcessCommunication),
        ("cgroup", LinkNameSpaceType::ControlGroup),
        ("pid", LinkNameSpaceType::ProcessID),
        ("mnt", LinkNameSpaceType::Mount),
    ];
    if spec.net == Net::None {
        kinds.push(("net", LinkNameSpaceType::Network));
    }
    // All are opened before the first is entered: another root has another /proc.
    let namespaces: Vec<(File, LinkNameSpaceType)> = (kinds.into_iter())
        .map(|(name, kind)| Ok((File::open(format!("/proc/{pid}/ns/{name}"))?, kind)))
        .collect::<std::io::Result<_>>()
        .map_err(WorkloadError::system("open the workload's namespaces"))?;
    // A thread that shares its root and working directory with others may not change its mount namespace.
    leave(&[Namespace::Directories]).map_err(WorkloadError::system("part from the other threads"))?;
    for (namespace, kind) in namespaces {
        move_into_link_name_space(namespace.as_fd(), Some(kind))
            .map_err(WorkloadError::os("enter the workload's namespaces"))?;
    }
    rustix::process::umask(rustix::fs::Mode::from(0o022));
    init::become_user(spec).map_err(WorkloadError::os("become the workload's user"))?;
    rustix::process::chdir(&*spec.process.cwd).map_err(WorkloadError::os("enter the working directory"))
}
