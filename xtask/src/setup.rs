//! Installs the Debian packages that a job needs and this machine lacks.
//!
//! A need is looked for by what it brings (a program, a header), so any machine that already has it is left
//! alone. `apt-get update` runs once, and only when something is missing. Services of the packages are not
//! started: a `policy-rc.d` that forbids it stands while apt runs, unless the machine has its own.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::exec;

const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_TEXT: &str =
    "#!/bin/sh\n# written by cargo xtask: no services while it installs packages\nexit 101\n";

/// Something a job needs from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Need {
    /// Building images: debootstrap, python3 with pip.
    Images,
    /// The node image: nodejs and npm on the host.
    Node,
    /// The torch image: a C compiler and binutils for its stub libraries.
    Stubs,
    /// Debian's docker-registry.
    Registry,
    /// Another tool for images, to see what it makes of ours.
    Skopeo,
    /// The emulated link: ip, a C compiler.
    Link,
    /// Stock zlib and a C compiler, as a yardstick.
    Zlib,
    /// Compiling the eBPF programs: what the unpacked toolchain is linked with, a C compiler.
    Ebpf,
    /// strace, and programs for it to look at.
    Strace,
    /// File systems that are made in files for the tests.
    Disks,
    /// A real containerd for the containerd tests.
    Containerd,
    /// Python's tarfile, GNU tar, gzip and zstd: the second opinions on archives.
    Oracles,
    /// libFuzzer, which is C++.
    Fuzz,
    /// A browser that draws the page of a report.
    Chromium,
    /// containerd's own tests of snapshotters, which are in Go.
    Conformance,
    /// A program without libraries for images that are made on the spot.
    Busybox,
    /// Putting packages together.
    Packages,
    /// A root of Debian's.
    Debootstrap,
    /// What draws manual pages.
    Manual,
    /// What renders the chart.
    Chart,
    /// Programs for arm64.
    Qemu,
    /// Linking programs that need no library.
    Static,
    /// Compiling for arm64 on amd64.
    Arm,
    /// Booting Debian's kernels: qemu, file systems in files, what unpacks a kernel, Debian's keys.
    Vm,
}

impl Need {
    /// Debian packages and how to tell that each is there.
    fn packages(self) -> &'static [(&'static str, Probe)] {
        use Probe::{File, Program, PythonModule};
        match self {
            Self::Conformance => &[
                ("golang-go", Program("go")),
                (
                    "golang-github-containerd-containerd-dev",
                    File(
                        "/usr/share/gocode/src/github.com/containerd/containerd/snapshots/testsuite/testsuite.go",
                    ),
                ),
            ],
            Self::Busybox => &[("busybox-static", File("/var/lib/dpkg/info/busybox-static.list"))],
            Self::Packages => &[
                ("dpkg", Program("dpkg-deb")),
                ("tar", Program("tar")),
                ("busybox-static", File("/var/lib/dpkg/info/busybox-static.list")),
            ],
            Self::Debootstrap => &[("debootstrap", Program("debootstrap"))],
            Self::Manual => &[("groff", File("/usr/share/groff/current/tmac/an.tmac"))],
            Self::Chart => &[
                ("golang-go", Program("go")),
                (
                    "golang-github-masterminds-sprig-dev",
                    File("/usr/share/gocode/src/github.com/Masterminds/sprig/functions.go"),
                ),
                ("golang-sigs-k8s-yaml-dev", File("/usr/share/gocode/src/sigs.k8s.io/yaml/yaml.go")),
            ],
            Self::Qemu => &[("qemu-user-static", Program("qemu-aarch64-static"))],
            Self::Static => &[
                ("gcc", Program("gcc")),
                ("libc6-dev", File("/usr/include/stdio.h")),
                ("binutils", Program("readelf")),
            ],
            Self::Arm => &[
                ("gcc-aarch64-linux-gnu", Program("aarch64-linux-gnu-gcc")),
                ("libc6-dev-arm64-cross", File("/usr/aarch64-linux-gnu/lib/libc.a")),
                ("binutils", Program("readelf")),
            ],
            Self::Images => &[
                ("debootstrap", Program("debootstrap")),
                ("python3", Program("python3")),
                ("python3-pip", PythonModule("pip")),
            ],
            Self::Node => &[("nodejs", Program("node")), ("npm", Program("npm"))],
            Self::Stubs => &[("gcc", Program("gcc")), ("binutils", Program("readelf"))],
            Self::Registry => &[("docker-registry", Program("docker-registry"))],
            Self::Skopeo => &[("skopeo", Program("skopeo"))],
            Self::Link => &[
                ("iproute2", Program("ip")),
                ("gcc", Program("gcc")),
                ("libc6-dev", File("/usr/include/stdio.h")),
                ("linux-libc-dev", File("/usr/include/linux/if_tun.h")),
            ],
            Self::Zlib => &[("gcc", Program("gcc")), ("zlib1g-dev", File("/usr/include/zlib.h"))],
            Self::Ebpf => &[
                ("gcc", Program("gcc")),
                ("libc6-dev", File("/usr/include/stdio.h")),
                ("libedit2", File("/usr/lib/x86_64-linux-gnu/libedit.so.2")),
                ("libxml2", File("/usr/lib/x86_64-linux-gnu/libxml2.so.2")),
                ("libz3-4", File("/usr/lib/x86_64-linux-gnu/libz3.so.4")),
            ],
            Self::Strace => &[("strace", Program("strace")), ("python3", Program("python3"))],
            Self::Disks => &[("xfsprogs", Program("mkfs.xfs"))],
            Self::Containerd => &[("containerd", Program("containerd")), ("runc", Program("runc"))],
            Self::Oracles => &[
                ("python3", Program("python3")),
                ("gzip", Program("gzip")),
                ("tar", Program("tar")),
                ("zstd", Program("zstd")),
            ],
            Self::Fuzz => &[("g++", Program("g++"))],
            Self::Chromium => &[("chromium", Program("chromium"))],
            Self::Vm => &[
                ("qemu-system-x86", Program("qemu-system-x86_64")),
                ("debian-archive-keyring", File("/usr/share/keyrings/debian-archive-keyring.gpg")),
                // Other packages bring a busybox that needs libraries.
                ("busybox-static", File("/var/lib/dpkg/info/busybox-static.list")),
                ("e2fsprogs", Program("mke2fs")),
                ("xfsprogs", Program("mkfs.xfs")),
                ("btrfs-progs", Program("mkfs.btrfs")),
                ("xz-utils", Program("xz")),
                ("zstd", Program("zstd")),
                ("gcc", Program("gcc")),
                ("libc6-dev", File("/usr/include/stdio.h")),
                ("binutils", Program("strip")),
            ],
        }
    }
}

/// How the presence of a package shows.
#[derive(Debug, Clone, Copy)]
enum Probe {
    Program(&'static str),
    File(&'static str),
    PythonModule(&'static str),
}

impl Probe {
    fn is_met(self) -> bool {
        match self {
            Self::Program(name) => on_path(name),
            Self::File(path) => Path::new(path).exists(),
            Self::PythonModule(module) => {
                exec::succeeds(&mut exec::command(["python3", "-c", &format!("import {module}")]))
            }
        }
    }
}

/// Makes sure that all needs are met, installing what is missing; needs root only then.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing = || -> Vec<&str> {
        let all = needs.iter().flat_map(|need| need.packages());
        all.filter(|(_, probe)| !probe.is_met()).map(|(package, _)| *package).collect()
    };
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !is_root() {
        bail!("missing: {list}; run this as root, or install them with: sudo apt-get install {list}");
    }
    if !on_path("apt-get") {
        bail!("missing: {list}; this machine has no apt-get, install them by its own means");
    }
    let _policy = NoServices::stand()?;
    let apt = |words: &[&str]| {
        exec::run(
            exec::command(["apt-get", "-qq", "-o", "Dpkg::Use-Pty=0", "-o", "Acquire::Retries=3"])
                .args(words)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    apt(&["update"])?;
    apt(&[&["install", "-y", "--no-install-recommends"], packages.as_slice()].concat())?;
    let still = missing();
    if !still.is_empty() {
        bail!("apt-get installed {list}, but these are still not usable: {}", still.join(" "));
    }
    Ok(())
}

/// Fails, saying what to do, when we are not root.
pub(crate) fn require_root(what: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    bail!("{what} needs root (mounts, network namespaces): run it with sudo or in a root shell");
}

/// Fails, saying what to do, when FUSE cannot be used.
pub(crate) fn require_fuse() -> Result<()> {
    fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").map(drop).context(
        "/dev/fuse cannot be opened: load the fuse module (modprobe fuse) or give this machine the device",
    )
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(system).any(|dir| {
        fs::metadata(dir.join(name))
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// Forbids packages to start their services while it lives.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn stand() -> Result<Self> {
        // A file of ours may have outlived a killed run: then it is ours to remove as well.
        if fs::read_to_string(POLICY).is_ok_and(|text| text == POLICY_TEXT) {
            return Ok(Self { ours: true });
        }
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        match file {
            Ok(mut file) => {
                file.write_all(POLICY_TEXT.as_bytes())?;
                Ok(Self { ours: true })
            }
            // The machine has a policy of its own: it stays in force.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(Self { ours: false }),
            Err(error) => Err(error).with_context(|| format!("cannot write {POLICY}")),
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}
