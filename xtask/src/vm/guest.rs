//! The root of a guest: busybox, programs with the libraries that they have here, files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{disk, kernel};
use crate::exec;

/// Free space of a guest's root, in MiB.
const FREE: u64 = 2048;

/// A root in the making: a folder, until it is a file system in a file.
#[derive(Debug)]
pub(super) struct Guest {
    /// All of the file system, and what of it is the guest's root.
    whole: PathBuf,
    tree: PathBuf,
}

impl Guest {
    /// A root with busybox for everything, in an empty folder.
    pub(super) fn new(tree: PathBuf) -> Result<Self> {
        for dir in [
            "usr/bin",
            "usr/sbin",
            "usr/lib",
            "usr/lib64",
            "etc",
            "proc",
            "sys",
            "dev",
            "run",
            "tmp",
            "root",
            "var/lib",
            "var/tmp",
            "out",
            "mnt",
            "vm",
        ] {
            fs::create_dir_all(tree.join(dir))?;
        }
        for link in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{link}"), tree.join(link))?;
        }
        let guest = Self { whole: tree.clone(), tree };
        for (path, text) in [
            ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
            ("etc/group", "root:x:0:\n"),
            ("etc/hosts", "127.0.0.1 localhost vm\n"),
            ("etc/nsswitch.conf", "hosts: files\n"),
        ] {
            guest.write(path, text)?;
        }
        guest.first_steps()?;
        let applets = exec::read(exec::command([kernel::busybox()?]).arg("--list"))?;
        for applet in applets.lines() {
            symlink("/vm/busybox", guest.tree.join("usr/bin").join(applet))?;
        }
        symlink("/vm/busybox", guest.tree.join("usr/sbin/modprobe"))?;
        Ok(guest)
    }

    /// What goes over this machine's own root, in an empty folder: `/vm`. The rest of the file system is `/disk` in the guest.
    pub(super) fn over_host(whole: PathBuf) -> Result<Self> {
        let tree = whole.join(".low");
        fs::create_dir_all(tree.join("vm"))?;
        let guest = Self { whole, tree };
        guest.first_steps()?;
        Ok(guest)
    }

    /// Process 1 and what it needs.
    fn first_steps(&self) -> Result<()> {
        fs::copy(kernel::busybox()?, self.tree.join("vm/busybox"))?;
        program(&self.tree.join("vm/init.sh"), include_str!("../../vm/init.sh"))?;
        program(&self.tree.join("vm/modprobe"), "#!/vm/busybox sh\nexec /vm/busybox modprobe \"$@\"\n")
    }

    /// Adds a file.
    pub(super) fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.tree.join(path);
        fs::create_dir_all(file.parent().context("a file has a folder")?)?;
        fs::write(file, text)?;
        Ok(())
    }

    /// Where a file or folder of the guest is made.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.tree.join(path)
    }

    /// Adds a program of this machine, without what only a debugger wants, and its libraries.
    pub(super) fn carry(&self, program: &Path) -> Result<()> {
        let name = program.file_name().context("a program has a name")?;
        let to = self.tree.join("usr/bin").join(name);
        let _ = fs::remove_file(&to); // busybox may have one of this name
        exec::read(exec::command(["strip", "-o"]).args([&to, program]))?;
        let libraries = exec::read(exec::command(["ldd"]).arg(program)).unwrap_or_default(); // it may have none
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let to = self.tree.join(library.trim_start_matches('/'));
            if !to.exists() {
                fs::create_dir_all(to.parent().context("a file has a folder")?)?;
                fs::copy(library, &to).with_context(|| format!("cannot copy {library}"))?;
            }
        }
        Ok(())
    }

    /// Writes it as a file system.
    pub(super) fn finish(self, image: &Path) -> Result<()> {
        disk::ext4(&self.whole, image, FREE)?;
        fs::remove_dir_all(self.whole)?;
        Ok(())
    }
}

/// Writes a script that can be executed.
pub(super) fn program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
