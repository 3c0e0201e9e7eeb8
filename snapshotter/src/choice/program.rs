//! The administrator's program that chooses: one JSON object to its standard input, one from its standard output.
//!
//! Holds no state. What must always hold: the program has a time limit, after which it and what it has started are killed, and its
//! output a limit, too; nothing of ours is in its environment but PATH.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::Launch;

/// Longest answer, in bytes.
const MAX_ANSWER: u64 = 64 << 10;
/// Where the program finds others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest name of a workload, in bytes.
const MAX_NAME: usize = 256;

/// A program that chooses.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    limit: Duration,
}

/// The program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It cannot be run.
    #[error("cannot run {}", path.display())]
    Run {
        /// The program.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// It failed.
    #[error("it ended with {0}")]
    Failed(ExitStatus),
    /// Its answer is too long.
    #[error("its answer has more than {MAX_ANSWER} bytes")]
    Long,
    /// Its answer is not what it should be.
    #[error("its answer is not {{\"workload\": NAME or null}}")]
    Answer(#[source] serde_json::Error),
    /// The name in it cannot be one.
    #[error("the name of its workload has more than {MAX_NAME} bytes")]
    Name,
}

#[derive(Serialize)]
struct Question<'a> {
    version: u32,
    image: &'a str,
    digest: String,
    namespace: &'a str,
    labels: &'a BTreeMap<String, String>,
    workloads: &'a [String],
}

#[derive(Deserialize)]
struct Answer {
    workload: Option<String>,
}

/// Ends the program and all that it has started, unless it has ended by itself.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0.take() {
            // It may be gone.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Program {
    /// The program at `path`, which may take `limit`.
    pub const fn new(path: PathBuf, limit: Duration) -> Self {
        Self { path, limit }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The workload that it names for a start; `None`: it has no opinion.
    ///
    /// # Errors
    /// When it cannot be run, fails, takes too long, or its answer is not one.
    pub async fn ask(&self, launch: &Launch, workloads: &[String]) -> Result<Option<String>, ProgramError> {
        let question = Question {
            version: 1,
            image: &launch.image,
            digest: launch.digest.to_string(),
            namespace: &launch.namespace,
            labels: &launch.labels,
            workloads,
        };
        let question = serde_json::to_vec(&question).map_err(ProgramError::Answer)?;
        let answered = tokio::time::timeout(self.limit, self.run(&question)).await;
        let raw = answered.map_err(|_| ProgramError::Late(self.limit))??;
        let answer: Answer = serde_json::from_slice(&raw).map_err(ProgramError::Answer)?;
        match answer.workload {
            Some(name) if name.len() > MAX_NAME => Err(ProgramError::Name),
            workload => Ok(workload),
        }
    }

    async fn run(&self, question: &[u8]) -> Result<Vec<u8>, ProgramError> {
        let failed = |source| ProgramError::Run { path: self.path.clone(), source };
        let mut command = Command::new(&self.path);
        command.env_clear().env("PATH", PATH).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let mut group = Group(leader);
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let write = async {
            if let Some(mut input) = input {
                // A program need not read what it does not care for.
                let _ = input.write_all(question).await;
            }
        };
        let read = async {
            let mut answer = Vec::new();
            if let Some(output) = output {
                output.take(MAX_ANSWER + 1).read_to_end(&mut answer).await.map_err(failed)?;
            }
            Ok(answer)
        };
        let (answer, ()) = tokio::join!(read, write);
        let answer: Vec<u8> = answer?;
        if answer.len() as u64 > MAX_ANSWER {
            return Err(ProgramError::Long);
        }
        let status = child.wait().await.map_err(failed)?;
        // Its number may be another's from now on.
        group.0 = None;
        if status.success() { Ok(answer) } else { Err(ProgramError::Failed(status)) }
    }
}
