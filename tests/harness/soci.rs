//! The real `soci` program on a private root directory.
//!
//! Owns the directory it works in; it is gone after the drop.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::daemon::program;

/// A place to run `soci` in: `root` below it is the root directory of every call.
#[derive(Debug)]
pub struct Soci {
    dir: TempDir,
    containerd: PathBuf,
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Standard output of a call that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The first line of standard error of a call that must have failed with code 1.
    #[track_caller]
    pub fn failed(self) -> String {
        assert_eq!(self.code, 1, "{}{}", self.stdout, self.stderr);
        self.stderr.lines().find(|line| line.starts_with("soci: ")).unwrap_or_default().to_owned()
    }
}

impl Soci {
    /// An empty place.
    #[allow(clippy::new_without_default)] // it makes a directory
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directories can be made");
        let nobody = dir.path().join("no-containerd.sock");
        Self { dir, containerd: nobody }
    }

    /// An empty place whose calls find containerd at `socket`.
    pub fn with_containerd(socket: &Path) -> Self {
        Self { containerd: socket.to_owned(), ..Self::new() }
    }

    /// The working directory of every call.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `soci --root ROOT ARGS...`.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        self.run_with(&[], args)
    }

    /// Runs it with these variables in its environment.
    pub fn run_with<S: AsRef<OsStr>>(
        &self,
        variables: &[(&str, &str)],
        args: impl IntoIterator<Item = S>,
    ) -> Outcome {
        let mut command = self.command(program("soci"));
        command.arg("--root").arg(self.dir().join("root")).args(args).envs(variables.iter().copied());
        let output = command.output().expect("the program can be started");
        let text = |bytes| String::from_utf8(bytes).expect("output is text");
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Runs `soci --root ROOT WORDS` in a shell whose output and error output are a terminal, and gives what the
    /// terminal got.
    pub fn on_terminal(&self, words: &str) -> String {
        let line =
            format!("{} --root {} {words}", program("soci").display(), self.dir().join("root").display());
        let mut command = self.command("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        let output = command.output().expect("util-linux is installed");
        let text = String::from_utf8(output.stdout).expect("output is text");
        assert!(output.status.success(), "{line}: {text}");
        text
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.dir())
            .env_remove("RUST_LOG")
            .env("DOCKER_CONFIG", self.dir())
            .env("CONTAINERD_ADDRESS", &self.containerd)
            .stdin(Stdio::null());
        command
    }
}
