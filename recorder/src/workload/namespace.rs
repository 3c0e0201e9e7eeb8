//! Namespaces of the calling thread, and the cgroup of a child. The only file of this crate with `unsafe`.
//!
//! [`with_private_mounts`] gives one thread, and all threads and processes it starts, a mount table of their own. What
//! is mounted there can never be left behind: the kernel takes it away with the last of them, even after SIGKILL.

#![allow(
    unsafe_code,
    reason = "unshare(2) is unsafe in rustix for the sake of CLONE_FILES, which is never passed here; \
              whatever runs between fork and exec is, of which there is one system call here"
)]

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};
use rustix::process::{chdir, chroot, fchdir, getcwd};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The namespaces that can be left by [`leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// Mount table; the thread's root, working directory and umask become its own, too.
    Mount,
    /// Process ids of children made from now on.
    PidOfChildren,
    /// Host name.
    Uts,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Network.
    Net,
    /// Control groups: the group that the thread is in becomes the root of what it sees.
    Cgroup,
    /// No namespace: the thread's root, working directory and umask become its own.
    Directories,
}

/// Moves the calling thread to new namespaces.
pub fn leave(namespaces: &[Namespace]) -> io::Result<()> {
    let mut flags = UnshareFlags::empty();
    for namespace in namespaces {
        flags |= match namespace {
            Namespace::Mount => UnshareFlags::NEWNS,
            Namespace::PidOfChildren => UnshareFlags::NEWPID,
            Namespace::Uts => UnshareFlags::NEWUTS,
            Namespace::Ipc => UnshareFlags::NEWIPC,
            Namespace::Net => UnshareFlags::NEWNET,
            Namespace::Cgroup => UnshareFlags::NEWCGROUP,
            Namespace::Directories => UnshareFlags::FS,
        };
    }
    // SAFETY: `flags` is built above and never holds FILES, the one flag that changes what file descriptors mean.
    unsafe { unshare_unsafe(flags) }.map_err(Into::into)
}

/// Has `command` run in a cgroup from before its first instruction on. `procs` is the `cgroup.procs` of that, open for
/// writing; the rights are those of whoever opened it.
pub(super) fn run_in_cgroup(command: &mut Command, procs: Arc<File>) {
    let enter = move || rustix::io::write(&*procs, b"0").map(drop).map_err(Into::into);
    // SAFETY: between fork and exec, `enter` makes one system call on a descriptor that it owns; it takes no memory and
    // no lock, also where that fails.
    unsafe { command.pre_exec(enter) };
}

/// Runs `work` on a thread whose mounts nobody else sees, and waits for it.
///
/// Mounts of the host still appear inside; nothing inside appears outside. Needs CAP_SYS_ADMIN.
pub fn with_private_mounts<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let body = || {
            leave(&[Namespace::Mount])?;
            receive_only()?;
            Ok(work())
        };
        let handle = thread::Builder::new().name("private-mounts".into()).spawn_scoped(scope, body)?;
        handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Mounts that the calling thread makes from now on are not seen elsewhere; those of others still come.
fn receive_only() -> rustix::io::Result<()> {
    let below = MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM;
    match mount_change("/", below) {
        // In a chroot, `/` is a directory of a mount that cannot be reached from there.
        Err(Errno::INVAL) => {
            root_on_a_mount()?;
            mount_change("/", below)
        }
        other => other,
    }
}

/// Makes the thread's root a mount of its own, with the same files and mounts below it.
///
/// It lies over `/proc`, which is a mount and can be kept from handing it on; what it shows has a `/proc`, too.
fn root_on_a_mount() -> rustix::io::Result<()> {
    let here = getcwd(Vec::new())?;
    let recursive = OpenTreeFlags::AT_RECURSIVE;
    let root =
        open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | recursive)?;
    mount_change("/proc", MountPropagationFlags::PRIVATE)?;
    move_mount(&root, "", CWD, "/proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    fchdir(&root)?;
    chroot(".")?;
    chdir(here.as_c_str())
}
