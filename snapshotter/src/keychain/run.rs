//! Programs that are asked for credentials: a question on standard input, an answer on standard output.
//!
//! Owns the process while it runs. What must always hold: neither the time nor the bytes of an answer are without a limit,
//! and a program that takes too long is ended with all that it has started.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

/// Longest answer.
const MAX_ANSWER: u64 = 1 << 20;
/// What is read of the program's complaints, and how much of that is told.
const MAX_WORDS: u64 = 4 << 10;
const MAX_TOLD: usize = 300;
/// What our own starter tells us, and nobody else is to act on.
const OURS: [&str; 4] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"];

/// A program did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("cannot run {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("{program} did not answer within {limit:?}")]
    TimedOut { program: String, limit: Duration },
    #[error("{program} ended with {status}: {words}")]
    Failed { program: String, status: ExitStatus, words: String },
    #[error("the answer of {program} is longer than {MAX_ANSWER} bytes")]
    TooLong { program: String },
}

/// Ends a program with its children, unless it has ended by itself.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Gone already, perhaps.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Runs `command` with `question`, for `limit` at most, and gives what it answers.
pub(super) async fn ask(mut command: Command, question: &[u8], limit: Duration) -> Result<Vec<u8>, RunError> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let failed = |source| RunError::Start { program: program.clone(), source };
    for name in OURS {
        command.env_remove(name);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.process_group(0).kill_on_drop(true).spawn().map_err(failed)?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let talk = async {
        let say = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read its input answers anyway, or fails with its own words.
                let _ = stdin.write_all(question).await;
            }
        };
        let ((), answer, words) = tokio::join!(say, read(stdout, MAX_ANSWER + 1), complaints(stderr));
        Ok((answer?, words?, child.wait().await?))
    };
    let talked = timeout(limit, talk).await;
    let (answer, words, status) =
        talked.map_err(|_| RunError::TimedOut { program: program.clone(), limit })?.map_err(failed)?;
    group.0 = None;
    if answer.len() as u64 > MAX_ANSWER {
        return Err(RunError::TooLong { program });
    }
    if !status.success() {
        let words = String::from_utf8_lossy(&words);
        let words =
            words.trim().chars().take(MAX_TOLD).map(|c| if c.is_control() { ' ' } else { c }).collect();
        return Err(RunError::Failed { program, status, words });
    }
    Ok(answer)
}

/// Reads to the end, and keeps the beginning: a program may say much and answer well.
async fn complaints(from: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut from) = from {
        (&mut from).take(MAX_WORDS).read_to_end(&mut bytes).await?;
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
    }
    Ok(bytes)
}

/// Reads to the end, and keeps `most` bytes. What is more is not waited for: the program gets SIGPIPE.
async fn read(from: Option<impl AsyncRead + Unpin>, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(most).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn answers_and_failures() {
        let minute = Duration::from_mins(1);
        assert_eq!(ask(shell("cat; printf !"), b"question", minute).await.unwrap(), b"question!");
        let chatty = "yes complaint | head -c 100000 >&2; echo ready";
        assert_eq!(ask(shell(chatty), &vec![b'x'; 1 << 20], minute).await.unwrap(), b"ready\n");
        let failed = ask(shell("echo why >&2; exit 3"), b"", minute).await.unwrap_err().to_string();
        assert_eq!(failed, "/bin/sh ended with exit status: 3: why");
        let long = ask(shell("yes"), b"", minute).await;
        assert!(matches!(long, Err(RunError::TooLong { .. })), "{long:?}");
        let absent = ask(Command::new("/nonexistent"), b"", minute).await;
        assert!(matches!(absent, Err(RunError::Start { .. })), "{absent:?}");
    }

    #[tokio::test]
    async fn what_takes_too_long_is_ended_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let late = ask(shell(&script), b"", Duration::from_millis(500)).await;
        assert!(matches!(late, Err(RunError::TimedOut { .. })), "{late:?}");
        let child = std::fs::read_to_string(&pid).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        let is_gone = || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
        while !is_gone() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
