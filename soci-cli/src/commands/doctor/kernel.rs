//! What the kernel lets us do: FUSE, EROFS images, overlays, eBPF, cgroups.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use recorder::capture::{Way, probe_ebpf};
use recorder::rootfs::Overlay;
use recorder::workload::unified_root;

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_string, fsopen};

use super::{Finding, causes};

/// All checks of this machine alone.
pub(super) fn check() -> Vec<Finding> {
    let root = rustix::process::geteuid().is_root();
    let mut findings = vec![kernel(), user(root), fuse(), erofs(root), overlayfs(root), cgroup()];
    findings.push(ebpf(root));
    findings
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    Finding::ok(
        "kernel",
        format!("{} {} {}", text(name.sysname()), text(name.release()), text(name.machine())),
    )
}

fn user(root: bool) -> Finding {
    if root {
        return Finding::ok("user", "root");
    }
    Finding::failed(
        "user",
        "not root: no mounts, no eBPF; index, zTOC and trace commands work",
        "run soci doctor, record and run as root",
    )
}

fn fuse() -> Finding {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Finding::ok("fuse", "/dev/fuse can be opened"),
        Err(error) => Finding::failed(
            "fuse",
            format!("/dev/fuse: {error}"),
            "load the module (modprobe fuse); in a container, pass the device",
        ),
    }
}

/// Asks for a mount of a socket. A kernel that mounts images from files tries to open it, which cannot be done; any other
/// says that it is no block device. Nothing is read, and no line is left in the kernel's log.
fn erofs(root: bool) -> Finding {
    const CHECK: &str = "erofs";
    const WITHOUT: &str = "lazy layers ask over FUSE for names, too, which is slower";
    if !root {
        return Finding::warning(CHECK, "not tried: needs root", "");
    }
    let attempt = || -> std::io::Result<Errno> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("socket");
        let _socket = UnixListener::bind(&path)?;
        let ask = || {
            let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_set_string(context.as_fd(), "source", &path)?;
            fsconfig_create(context.as_fd())
        };
        ask().err().ok_or_else(|| std::io::Error::other("the kernel takes a socket for an image"))
    };
    let read_only = |statvfs: rustix::fs::StatVfs| statvfs.f_flag.contains(StatVfsMountFlags::RDONLY);
    match attempt() {
        Ok(Errno::NXIO) if statvfs("/sys").is_ok_and(read_only) => Finding::warning(
            CHECK,
            format!("/sys is read-only: {WITHOUT}"),
            "in a container, mount /sys writable for the snapshotter",
        ),
        Ok(Errno::NXIO) => Finding::ok(CHECK, "layers are mounted as images"),
        Ok(errno) => Finding::warning(
            CHECK,
            format!("no images from files ({errno}): {WITHOUT}"),
            "Linux 6.12 or later, with EROFS_FS and EROFS_FS_BACKED_BY_FILE",
        ),
        Err(error) => Finding::warning(CHECK, format!("not tried: {error}"), ""),
    }
}

/// Mounts an overlay of empty directories for a moment: the only honest test.
fn overlayfs(root: bool) -> Finding {
    const CHECK: &str = "overlayfs";
    const ADVICE: &str = "load the module (modprobe overlay); the snapshotter's root must be on ext4, xfs or btrfs, not on an overlay";
    if !root {
        return Finding::warning(CHECK, "not tried: needs root", "");
    }
    let attempt = || -> Result<(), String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let part = |name: &str| dir.path().join(name);
        fs::create_dir(part("lower")).map_err(|error| error.to_string())?;
        let overlay = Overlay::writable(&[&part("lower")], &part("upper"), &part("work"), &part("merged"));
        let overlay = overlay.map_err(causes)?;
        fs::write(overlay.path().join("file"), "written").map_err(|error| error.to_string())
    };
    match attempt() {
        Ok(()) => Finding::ok(CHECK, "an overlay can be mounted and written"),
        Err(error) => Finding::failed(CHECK, error, ADVICE),
    }
}

fn cgroup() -> Finding {
    match unified_root() {
        Some(place) => Finding::ok("cgroup", format!("unified hierarchy (version 2) at {}", place.display())),
        None => Finding::warning(
            "cgroup",
            "no unified hierarchy is to be seen here",
            "soci record mounts it for itself, or tells the workload by its process tree",
        ),
    }
}

/// Loads and attaches the recorder's programs for a moment.
fn ebpf(root: bool) -> Finding {
    const CHECK: &str = "ebpf";
    const ADVICE: &str =
        "soci record --image uses FUSE instead; directories and running containers need eBPF";
    if let Err(error) = File::open("/sys/kernel/btf/vmlinux") {
        return Finding::warning(CHECK, format!("no kernel types: /sys/kernel/btf/vmlinux: {error}"), ADVICE);
    }
    if !root {
        return Finding::warning(CHECK, "not tried: needs root", ADVICE);
    }
    match probe_ebpf() {
        Ok(Way::Functions) => {
            Finding::ok(CHECK, "the programs load; reads are seen at the ends of the kernel's functions")
        }
        Ok(Way::Calls) => Finding::ok(CHECK, "the programs load; reads are seen at the ends of system calls"),
        Ok(Way::Pages) => Finding::ok(
            CHECK,
            "the programs load; reads are seen by page events alone, so that traces count as incomplete",
        ),
        Err(error) => Finding::warning(CHECK, causes(error), ADVICE),
    }
}
