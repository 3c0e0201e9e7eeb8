//! The exec probe: a command inside a running workload, again and again until it exits with 0.
//!
//! Runs on a thread that has become part of the workload: it owns the command that runs at the moment, and never ends
//! without having waited for it, because the workload's pid namespace cannot end before that.

use std::io;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::workload::inside::Inside;
use crate::workload::{Spec, WorkloadError};

/// How often the command is run; a slower one is run again when it has ended.
const EXEC_EVERY: Duration = Duration::from_millis(100);
/// How often a running command is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Runs `words` in the workload with process `pid` until they exit with 0 (true) or the watch is over (false).
pub(super) fn wait(
    words: Vec<String>,
    pid: u32,
    spec: Spec,
    over: &AtomicBool,
) -> Result<bool, WorkloadError> {
    let inside = Inside::enter(pid, spec, words)?;
    let mut warned = false;
    while !over.load(Ordering::Relaxed) {
        let next = Instant::now() + EXEC_EVERY;
        match run(&inside, over) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(message) => {
                if !warned {
                    tracing::warn!("exec rule: {message}; it is tried again");
                }
                warned = true;
            }
        }
        while !over.load(Ordering::Relaxed) && Instant::now() < next {
            thread::sleep(LOOK_EVERY);
        }
    }
    Ok(false)
}

fn run(inside: &Inside, over: &AtomicBool) -> Result<bool, String> {
    let mut command = inside.command().map_err(|(message, _)| message)?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        // The workload is ending: nothing can be started in its pid namespace any more.
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => return Ok(false),
        Err(error) => return Err(format!("{}: {error}", command.get_program().display())),
    };
    loop {
        if over.load(Ordering::Relaxed) {
            let _ = child.kill(); // where we may not, the end of the workload does it
            let _ = child.wait();
            return Ok(false);
        }
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status.success()),
            Ok(None) => thread::sleep(LOOK_EVERY),
            Err(error) => return Err(error.to_string()),
        }
    }
}
