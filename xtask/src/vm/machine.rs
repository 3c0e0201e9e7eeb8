//! One boot of a guest under qemu: in software, so that no machine needs KVM, and without root.
//!
//! The guest has three serial lines: what the kernel says, what the command prints, and how it ended. Disks are never
//! changed: what a guest writes is gone with it, but for the disk `out`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::kernel::{self, Kernel};
use crate::exec;

const PROGRAM: &str = "qemu-system-x86_64";
/// Lines of what the kernel said that are shown of a guest that ended on its own.
const LAST_LINES: usize = 40;
/// Room for what a command leaves in /out.
const OUT_BYTES: u64 = 256 << 20;

/// A disk of a guest, which finds it by its name below /dev/disk.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) name: &'static str,
    pub(super) file: PathBuf,
    /// Bytes that are read from it in a second, at most.
    pub(super) bytes_per_second: Option<u64>,
}

/// What a guest is made of.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Kernel,
    /// The root file system.
    pub(super) root: &'a Path,
    pub(super) disks: &'a [Disk],
    /// Socket of a virtiofs server that shows this machine's root: it lies below that of the guest.
    pub(super) host: Option<&'a Path>,
    pub(super) memory_mib: u32,
    pub(super) limit: Duration,
}

/// How a guest ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// The command's exit code.
    pub(super) code: i32,
    /// What the kernel said.
    pub(super) console: String,
}

impl Machine<'_> {
    /// Boots, runs a shell script, gives its output line by line, and puts what it left in /out into `work`/out.
    pub(super) fn run(&self, work: &Path, script: &str, mut line: impl FnMut(&str)) -> Result<Ended> {
        let (ram, initramfs) = (work.join("ram"), work.join("initramfs"));
        let (console, status, out) = (work.join("console"), work.join("status"), work.join("out.tar"));
        fs::create_dir_all(&ram)?;
        crate::vm::guest::program(&ram.join("init"), include_str!("../../vm/ramdisk.sh"))?;
        fs::write(ram.join("command"), script)?;
        kernel::archive(&ram, &work.join("own"))?;
        fs::write(&initramfs, [fs::read(self.kernel.initramfs())?, fs::read(work.join("own"))?].concat())?;
        fs::File::create(&out)?.set_len(OUT_BYTES)?;

        let mut words = self.words(&initramfs, &console, &status);
        words.extend(disk("out", &out, ",snapshot=off"));
        let mut qemu = self.start(work, &words)?;
        let output = BufReader::new(qemu.stdout.take().context("qemu has an output")?);
        for text in output.split(b'\n') {
            line(String::from_utf8_lossy(&text?).trim_end_matches('\r'));
        }
        let ended = qemu.wait()?;

        let console = String::from_utf8_lossy(&fs::read(&console).unwrap_or_default()).replace('\r', "");
        let status = String::from_utf8_lossy(&fs::read(&status).unwrap_or_default()).replace('\r', "");
        let code =
            status.lines().find_map(|line| line.strip_prefix("code ")).and_then(|code| code.parse().ok());
        let Some(code) = code else {
            let lines: Vec<&str> = console.trim_end().lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
            if ended.code() == Some(124) {
                bail!("the guest was not done after {} s; it said last:\n{last}", self.limit.as_secs());
            }
            bail!("the guest ended without a code ({PROGRAM}: {ended}); it said last:\n{last}");
        };
        fs::create_dir_all(work.join("out"))?;
        let mut tar = exec::command(["tar", "-x", "--no-same-owner", "-f"]);
        exec::read(tar.arg(&out).arg("-C").arg(work.join("out"))).context("what the guest left in /out")?;
        fs::remove_file(out)?;
        Ok(Ended { code, console })
    }

    fn words(&self, initramfs: &Path, console: &Path, status: &Path) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let host = if self.host.is_some() { "vm.host" } else { "" };
        let append = format!(
            "console=ttyS0 loglevel=5 mitigations=off nokaslr panic=-1 tsc=reliable no_timer_check 8250.nr_uarts=4 {host}"
        );
        let memory = self.memory_mib.to_string();
        let mut words: Vec<String> = [
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-machine",
            "pc",
            // Addresses of five levels are slow to emulate.
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max,la57=off",
            "-smp",
            "2",
            "-m",
            &memory,
            "-kernel",
            &text(&self.kernel.image()),
            "-initrd",
            &text(initramfs),
            "-append",
            &append,
            "-serial",
            &format!("file:{}", text(console)),
            "-serial",
            "stdio",
            "-serial",
            &format!("file:{}", text(status)),
            "-device",
            "virtio-rng-pci",
        ]
        .map(str::to_owned)
        .to_vec();
        words.extend(disk("root", self.root, ""));
        words.extend(disk("modules", &self.kernel.modules(), ""));
        for one in self.disks {
            let slow = one.bytes_per_second.map(|bytes| format!(",throttling.bps-read={bytes}"));
            words.extend(disk(one.name, &one.file, &slow.unwrap_or_default()));
        }
        if let Some(socket) = self.host {
            let words_of_host = [
                "-object".to_owned(),
                format!("memory-backend-memfd,id=mem,size={memory}M,share=on"),
                "-numa".to_owned(),
                "node,memdev=mem".to_owned(),
                "-chardev".to_owned(),
                format!("socket,id=host,path={}", text(socket)),
                "-device".to_owned(),
                "vhost-user-fs-pci,chardev=host,tag=host".to_owned(),
            ];
            words.extend(words_of_host);
        }
        words
    }

    /// qemu, which ends with us and, after the limit, by itself. What guests write to disks goes to `scratch`.
    fn start(&self, scratch: &Path, words: &[String]) -> Result<Child> {
        let limit = self.limit.as_secs().to_string();
        let mut command = exec::tethered(
            "TERM",
            ["timeout", "--foreground", &limit, "setpriv", "--pdeathsig", "KILL", "--", PROGRAM],
        );
        command.args(words).env("TMPDIR", scratch).stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().with_context(|| format!("cannot start {PROGRAM}"))
    }
}

fn disk(name: &str, file: &Path, more: &str) -> [String; 4] {
    let snapshot = if more.contains("snapshot=") { "" } else { ",snapshot=on" };
    [
        "-drive".to_owned(),
        format!("file={},if=none,id={name},format=raw,cache=unsafe{snapshot}{more}", file.display()),
        "-device".to_owned(),
        format!("virtio-blk-pci,drive={name},serial={name}"),
    ]
}
