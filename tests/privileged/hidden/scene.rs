//! The processes and mounts of one test of the hidden connection. All are gone after the drop, however the test ended.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use harness::machine::{mounts_mentioning, processes_mentioning};
use harness::patience::eventually;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a process may take to say or do what it must.
const PATIENCE: Duration = Duration::from_mins(1);

/// A directory with the connection in it.
pub(super) struct Scene {
    directory: TempDir,
    flags: Vec<String>,
}

/// A process of the scene and what it says. Dropping kills it.
pub(super) struct Server {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    /// What was not waited for yet.
    said: Vec<String>,
    status: Option<ExitStatus>,
}

impl Scene {
    /// `flags` are for each server of the scene.
    pub(super) fn new(flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Self { directory: tempfile::tempdir().unwrap(), flags }
    }

    fn command(words: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hidden-server"));
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (said, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = said.send(line);
            }
        });
        Server { child, stdin, lines, said: Vec::new(), status: None }
    }

    /// Starts a server.
    pub(super) fn serve(&mut self, flags: &[&str]) -> Server {
        let directory = self.directory.path().to_str().unwrap();
        let all = ["serve", directory].into_iter().chain(self.flags.iter().map(String::as_str));
        Self::command(&all.chain(flags.iter().copied()).collect::<Vec<_>>())
    }

    /// Starts a process that reads one page of a file of the hidden mount.
    pub(super) fn read(&self, path: &str, offset: u64) -> Server {
        let path = self.hidden().join(path);
        Self::command(&["read", path.to_str().unwrap(), &offset.to_string()])
    }

    /// The same, past the page cache: the kernel sends INTERRUPT for each signal then.
    pub(super) fn read_directly(&self, path: &str, offset: u64) -> Server {
        let path = self.hidden().join(path);
        Self::command(&["read", path.to_str().unwrap(), &offset.to_string(), "direct"])
    }

    /// Where the hidden file system is mounted.
    pub(super) fn hidden(&self) -> PathBuf {
        self.directory.path().join("hidden")
    }

    /// Mounts the image of a layer, by a process of its own.
    pub(super) fn mount_image(&self, layer: u64) -> PathBuf {
        let image = self.hidden().join(format!("layer{layer}.img"));
        let mountpoint = self.directory.path().join(format!("image{layer}"));
        fs::create_dir_all(&mountpoint).unwrap();
        let words = ["mount-image", image.to_str().unwrap(), mountpoint.to_str().unwrap()];
        let mut helper = Self::command(&words);
        assert_eq!(helper.wait().code(), Some(0), "the image is not mounted");
        mountpoint
    }

    /// The holder's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("hold.sock")
    }

    /// The holder's process.
    pub(super) fn holder(&self) -> Option<Pid> {
        let all = self.processes();
        let holder = all.iter().find(|(_, line)| line.contains("hidden-server hold "));
        holder.and_then(|(pid, _)| Pid::from_raw(*pid as i32))
    }

    /// SIGKILL for the holder.
    pub(super) fn kill_holder(&self) {
        kill_process(self.holder().expect("a holder runs"), Signal::KILL).unwrap();
    }

    /// Processes of this scene, as a word of their command line says.
    fn processes(&self) -> Vec<(u32, String)> {
        let mut all = processes_mentioning(self.directory.path().to_str().unwrap());
        // Zombies have no command line.
        all.retain(|(_, line)| line.contains("hidden-server "));
        all
    }

    /// No thread of the scene or of this process waits in the kernel where it cannot be killed.
    pub(super) fn assert_no_process_hangs(&self) {
        eventually("a process hangs in the kernel", || {
            let others = self.processes().into_iter().map(|(pid, _)| pid);
            others.chain([std::process::id()]).all(|pid| {
                let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
                threads.into_iter().all(|thread| {
                    let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                    state(&stat) != Some('D')
                })
            })
        });
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for (pid, line) in self.processes() {
            if let Some(pid) = Pid::from_raw(pid as i32)
                && kill_process(pid, Signal::KILL).is_err()
                && thread::panicking()
            {
                eprintln!("cannot kill: {line}");
            }
        }
        let mounts = mounts_mentioning(self.directory.path().to_str().unwrap());
        for point in mounts.iter().rev().filter_map(|line| line.split(' ').nth(4)) {
            if let Err(error) = unmount(point, UnmountFlags::DETACH) {
                eprintln!("{point} stays mounted: {error}");
            }
        }
    }
}

/// The state in a line of /proc: the letter behind the name, which is in brackets.
fn state(stat: &str) -> Option<char> {
    stat.rsplit(") ").next()?.chars().next()
}

impl Server {
    /// Waits until the main thread does not take signals any more, because it waits in the kernel.
    pub(super) fn expect_deaf(&self) {
        let stat = format!("/proc/{}/stat", self.child.id());
        eventually("the reader is deaf", || state(&fs::read_to_string(&stat).unwrap()) == Some('D'));
    }

    /// Waits for a line that begins so. Other lines are for later.
    #[track_caller]
    pub(super) fn expect(&mut self, beginning: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.said.iter().position(|line| line.starts_with(beginning)) {
                self.said.remove(at);
                return;
            }
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("no {beginning:?}, but {:?}", self.said),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("no {beginning:?}, but {:?}; it ended with {:?}", self.said, self.child.wait())
                }
            }
        }
    }

    /// What it says until it ends.
    pub(super) fn rest(&mut self) -> String {
        self.said.extend(self.lines.iter());
        self.said.join(", ")
    }

    /// Writes a line to its stdin.
    pub(super) fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGKILL; returns when the process is gone.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        self.wait();
    }

    #[track_caller]
    pub(super) fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        while self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
            assert!(Instant::now() < end, "the process does not end");
            thread::sleep(Duration::from_millis(2));
        }
        self.status.unwrap()
    }

    #[track_caller]
    pub(super) fn was_killed(&mut self) -> bool {
        self.was_ended_by(Signal::KILL)
    }

    #[track_caller]
    pub(super) fn was_ended_by(&mut self, signal: Signal) -> bool {
        self.wait().signal() == Some(signal.as_raw())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // It may wait for a server that the drop of the scene ends.
        let _ = self.child.try_wait();
    }
}
