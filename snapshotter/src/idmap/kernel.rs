//! Shows a directory, or what is mounted on it, at another place with the ids of a user namespace (Linux 5.12; of an EROFS image
//! 5.19).
//!
//! The kernel takes a map from a user namespace only, and a namespace begins with a process. So a child is made that enters a
//! new one and waits; it is gone when its namespace is open. No state lives here.
//!
//! Its `unsafe` is fork(2), unshare(2) and mount_setattr(2), for which no crate of ours has a safe form. It runs in a helper
//! process, which has one thread.

#![allow(unsafe_code, reason = "fork, unshare and mount_setattr have no safe form")]

use std::fs::{self, File};
use std::io::{self, PipeWriter, Read, pipe};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::IdMaps;

/// Shows `source` on `mountpoint`, an existing directory, read-only and with these ids: what belongs to an inside id on the disk
/// belongs to the outside one there. What is mounted in `source` is not shown.
///
/// # Errors
/// The kernel's: EINVAL when the file system has no mapped mounts (FUSE, overlayfs).
pub(crate) fn show_mapped(source: &Path, mountpoint: &Path, maps: &IdMaps) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags)?;
    set_map(&tree, &user_namespace(maps)?)?;
    move_mount(&tree, "", CWD, mountpoint, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

fn set_map(tree: &OwnedFd, namespace: &OwnedFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: namespace.as_raw_fd() as u64,
    };
    // SAFETY: mount_setattr(2) reads a path that ends with NUL and as many bytes of attributes as it is told; both live until it
    // returns. It keeps no pointer.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A new user namespace with these maps, in which nobody is.
fn user_namespace(maps: &IdMaps) -> io::Result<OwnedFd> {
    let child = Child::start()?;
    let of = |name: &str| format!("/proc/{}/{name}", child.pid.as_raw_pid());
    fs::write(of("uid_map"), maps.users.lines())?;
    fs::write(of("gid_map"), maps.groups.lines())?;
    Ok(File::open(of("ns/user"))?.into())
}

/// A process in a user namespace of its own. It ends when it is dropped, or when its parent dies.
struct Child {
    pid: Pid,
    /// It waits for the end of this pipe.
    stay: Option<PipeWriter>,
}

impl Child {
    fn start() -> io::Result<Self> {
        let ((stay_end, stay), (mut entered, entered_end)) = (pipe()?, pipe()?);
        let ends = [stay_end.as_fd(), entered_end.as_fd(), stay.as_fd()].map(|fd| fd.as_raw_fd());
        // SAFETY: the child calls only what may be called between fork and exec in any process (see `enter_and_wait`), and
        // never comes back from it.
        let pid = match unsafe { libc::fork() } {
            0 => enter_and_wait(ends),
            pid => Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(io::Error::last_os_error)?,
        };
        let child = Self { pid, stay: Some(stay) };
        drop((stay_end, entered_end));
        let mut errno = [0; 4];
        entered.read_exact(&mut errno)?;
        match i32::from_ne_bytes(errno) {
            0 => Ok(child),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stay = None;
        // It is our child, and nobody else waits for it.
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The child: says how it went, and waits for the end of the pipe.
fn enter_and_wait([stay, entered, stay_of_parent]: [RawFd; 3]) -> ! {
    // SAFETY: system calls on descriptors and on memory of this function, and reads of errno: nothing allocates or takes a lock,
    // so that it may run in the child of a process with other threads.
    unsafe {
        libc::close(stay_of_parent);
        let errno = if libc::unshare(libc::CLONE_NEWUSER) == 0 { 0 } else { *libc::__errno_location() };
        let said = errno.to_ne_bytes();
        libc::write(entered, said.as_ptr().cast(), said.len());
        let mut byte = 0u8;
        libc::read(stay, (&raw mut byte).cast(), 1);
        libc::_exit(0)
    }
}
