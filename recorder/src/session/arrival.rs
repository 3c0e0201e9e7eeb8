//! The wait for the container that a command starts. Keeps no state: what the programs see meanwhile is kept by them.

use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use soci_core::error::chain;

use super::container_error::{ContainerSessionError, other};
use super::container_options::ContainerOptions;
use super::host_command::HostCommand;
use super::watched::LAST_WORDS;
use super::{TICK, URGENT_GRACE};
use crate::capture::Ebpf;
use crate::container::{Container, News, Wanted};

/// How long the news of a container may take after the command that made it has ended.
const NEWS_PATIENCE: Duration = Duration::from_secs(3);

/// Waits for the container that is meant.
pub(super) fn arrival(
    capture: &mut Ebpf,
    command: &mut HostCommand,
    wanted: &Wanted,
    options: &ContainerOptions<'_>,
    others: &mut Vec<String>,
) -> Result<Container, ContainerSessionError> {
    let begin = Instant::now();
    let mut ended: Option<(u8, Instant)> = None;
    loop {
        capture.look(TICK / 4);
        loop {
            match options.news.try_recv() {
                Ok(News::Created { id, container }) => match *container {
                    Ok(container) if wanted.is(&container) => return Ok(container),
                    Ok(container) => others.push(other(&container)),
                    Err(error) => others.push(format!("{id} ({})", chain(&error))),
                },
                Ok(News::Exited { .. }) => {}
                Ok(News::Lost(error)) => return Err(ContainerSessionError::Lost(error)),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        if let Some((code, at)) = ended
            && at.elapsed() > NEWS_PATIENCE
        {
            command.join_output(LAST_WORDS);
            return Err(ContainerSessionError::NoContainer { code, seen: std::mem::take(others) });
        }
        ended = ended.or_else(|| command.ended().map(|code| (code, Instant::now())));
        if let Ok(signal) = options.signals.try_recv() {
            command.signal(signal);
            command.wait_for(URGENT_GRACE);
            return Err(ContainerSessionError::Stopped(signal));
        }
        if options.rules.timeout.is_some_and(|limit| begin.elapsed() > limit) {
            command.signal(Signal::TERM);
            command.wait_for(URGENT_GRACE);
            return Err(ContainerSessionError::TimedOut);
        }
    }
}
