//! A thread of ours inside a running workload, and the commands that it starts there.
//!
//! [`enter`] moves the calling thread for good: it sees the workload's files, host name and network, its children are
//! processes of the workload's pid namespace, and it keeps no more rights than the workload has.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::namespace::{Namespace, leave};
use super::{Isolation, Net, Spec, WorkloadError, host, init};

/// Makes the calling thread part of the workload whose first process is `pid`.
pub(crate) fn enter(pid: u32, spec: &Spec) -> Result<(), WorkloadError> {
    if spec.isolation == Isolation::Host {
        leave(&[Namespace::Directories]).map_err(WorkloadError::system("part from the other threads"))?;
        return host::join(pid).map_err(WorkloadError::system("see what the workload sees"));
    }
    let mut kinds = vec![
        ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
        ("ipc", LinkNameSpaceType::InterProcessCommunication),
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

/// A command as the workload itself would execute it; else the reason and a shell's exit code.
pub(crate) fn command(spec: &Spec) -> Result<Command, (String, u8)> {
    init::command(spec)
}
