//! Seeing what another process of this machine sees: its mounts, root and working directory.
//!
//! The recorder keeps mounts of its own; a command of the machine must not run among them. Keeps no state.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{chroot, fchdir};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Gives the calling thread the mounts, root and working directory of the process `pid`. The thread must not share its
/// own with other threads.
pub(super) fn join(pid: u32) -> io::Result<()> {
    let open = |name: &str| -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(CWD, format!("/proc/{pid}/{name}"), flags, Mode::empty())?)
    };
    // All are opened before the first is entered: another root has another /proc.
    let mounts = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let (root, directory) = (open("root")?, open("cwd")?);
    move_into_link_name_space(mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
    fchdir(&root)?;
    chroot(".")?;
    Ok(fchdir(&directory)?)
}
