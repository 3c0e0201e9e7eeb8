//! What strace printed: calls that open, read, map and execute files become uses of these files.
//!
//! Owns the clock and the state of the traced processes while the lines go by. What must always hold: a call that failed or
//! never returned uses nothing; uses come out in the order of time. What strace cannot see is taken to be needed as a
//! whole: an executed file, and every byte of a mapping. A file that the workload has made or emptied is none of the image's.

mod call;
mod line;
mod state;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use soci_core::trace::{AccessKind, Phase, Process};

use self::call::{Call, has_word, shown_path};
use self::line::{Event, Stamp};
use self::state::State;
use super::lines::{Lines, MAX_LINE};
use super::{Collector, ImportError, Use, shared};

const DAY_NS: u64 = 86_400_000_000_000;
/// The kernel's short names have so many bytes.
const COMM: usize = 15;

pub(super) fn read(
    lines: &mut Lines<'_>,
    working_dir: &str,
    out: &mut Collector<'_>,
) -> Result<(), ImportError> {
    let mut log = Log {
        clock: Clock::default(),
        state: State::new(working_dir),
        made: HashSet::new(),
        processes: HashSet::new(),
        uses: Vec::new(),
        interrupted: None,
    };
    while let Some(line) = lines.next()? {
        if line.trim_ascii().is_empty() || log.line(line).is_some() {
            continue;
        }
        out.done.unknown_lines += 1;
        let number = lines.number();
        out.done.first_unknown.get_or_insert(number);
    }
    log.uses.sort_by_key(|(_, used)| used.t_ns);
    log.uses.iter().try_for_each(|(path, used)| out.add(path, used))
}

/// Time since the first line.
#[derive(Debug, Default)]
struct Clock {
    line: u64,
    now: u64,
    first: Option<u64>,
    midnights: u64,
}

impl Clock {
    /// The time of the next line. Lines without times are one microsecond apart.
    fn tick(&mut self, stamp: Option<Stamp>) -> u64 {
        self.line += 1;
        let absolute = match stamp {
            None => self.line.saturating_mul(1000),
            Some(Stamp::Since(delta)) => {
                self.now.saturating_add(if self.first.is_some() { delta } else { 0 })
            }
            Some(Stamp::Epoch(time)) => time,
            Some(Stamp::OfDay(time)) => {
                let time_today = time + self.midnights * DAY_NS;
                if time_today + DAY_NS / 2 < self.now {
                    self.midnights += 1;
                }
                time + self.midnights * DAY_NS
            }
        };
        self.now = absolute;
        absolute.saturating_sub(*self.first.get_or_insert(absolute))
    }
}

struct Log {
    clock: Clock,
    state: State,
    /// Files that the workload has made or emptied.
    made: HashSet<Vec<u8>>,
    processes: HashSet<Arc<Process>>,
    uses: Vec<(Arc<[u8]>, Use)>,
    /// The front of a line into which strace has spoken.
    interrupted: Option<Vec<u8>>,
}

impl Log {
    /// Takes a line; `None` when it is not understood.
    fn line(&mut self, text: &[u8]) -> Option<()> {
        let mut joined = self.interrupted.take();
        if let Some(front) = &mut joined {
            front.extend_from_slice(text);
        }
        let text = joined.as_deref().unwrap_or(text);
        if let Some((front, pid)) = line::announced(text) {
            self.state.announce(pid);
            self.interrupted = (!front.is_empty() && front.len() < MAX_LINE).then(|| front.to_vec());
            return Some(());
        }
        self.whole_line(text)
    }

    fn whole_line(&mut self, text: &[u8]) -> Option<()> {
        let line = line::parse(text)?;
        if line.event == Event::Notice && line.stamp.is_none() {
            return Some(());
        }
        let began = self.clock.tick(line.stamp);
        let pid = self.state.who(line.pid, matches!(line.event, Event::Resumed(_)));
        match line.event {
            Event::Notice => {}
            Event::Exited => self.state.exited(pid),
            Event::Unfinished(start) => {
                if is_fork(start) {
                    self.state.set_forking(Some((pid, has_word(start, "CLONE_FILES"))));
                }
                self.state.process(pid)?.unfinished = Some((start.to_vec(), began));
            }
            Event::Resumed(rest) => {
                let (start, began) = self.state.process(pid)?.unfinished.take()?;
                let whole = [&start, rest].concat();
                self.call(pid, began, &call::parse(&whole)?);
            }
            Event::Call(text) => self.call(pid, began, &call::parse(text)?),
        }
        Some(())
    }

    fn call(&mut self, pid: u32, began: u64, call: &Call<'_>) {
        if call.name.contains("fork") || call.name.starts_with("clone") {
            self.state.set_forking(None);
        }
        let Some(result) = call.success() else { return };
        // What does not have the arguments it must have is left alone.
        let _ = self.effect(pid, began, call, result);
    }

    fn effect(&mut self, pid: u32, began: u64, call: &Call<'_>, result: u64) -> Option<()> {
        let descriptor = u32::try_from(result);
        match call.name {
            "open" => self.opened(pid, descriptor.ok()?, call, None, 0),
            "openat" | "openat2" => self.opened(pid, descriptor.ok()?, call, Some(0), 1),
            "creat" => self.made_file(pid, descriptor.ok()?, call.string(0)?),
            "close" => self.state.close(pid, call.descriptor(0)?, call.descriptor(0)?),
            "close_range" => {
                self.state.close(
                    pid,
                    call.descriptor(0)?,
                    u32::try_from(call.number(1)?).unwrap_or(u32::MAX),
                );
            }
            "dup" => self.state.dup(pid, call.descriptor(0)?, descriptor.ok()?, false),
            "dup2" | "dup3" => {
                self.state.dup(pid, call.descriptor(0)?, descriptor.ok()?, call.mentions("O_CLOEXEC"));
            }
            "fcntl" | "fcntl64" => {
                let on_exec = call.mentions("F_DUPFD_CLOEXEC");
                if on_exec || call.mentions("F_DUPFD") {
                    self.state.dup(pid, call.descriptor(0)?, descriptor.ok()?, on_exec);
                }
            }
            "read" | "readv" => self.used(pid, began, call, 0, None, result),
            "pread64" | "preadv" | "preadv2" => {
                let offset = call.number(3).filter(|&offset| offset != u64::MAX);
                self.used(pid, began, call, 0, offset, result);
            }
            "sendfile" | "sendfile64" => self.used(pid, began, call, 1, bracketed(call, 2), result),
            "copy_file_range" | "splice" => self.used(pid, began, call, 0, bracketed(call, 1), result),
            "lseek" => self.state.file(pid, call.descriptor(0)?)?.position = result,
            "mmap" | "mmap2" if call.number(1)? > 0 && !call.mentions("PROT_NONE") => {
                let (length, offset) = (call.number(1)?, call.number(5)?);
                let path = self.path_of(pid, call, 4)?;
                self.add(pid, path, AccessKind::Fault, began, Some((offset, length)), call.took_ns);
            }
            "execve" | "execveat" => {
                let base = if call.name == "execveat" { Some(0) } else { None };
                let path = self.named(pid, call, base, usize::from(base.is_some()))?;
                let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
                self.state.exec(pid, name[..name.len().min(COMM)].into());
                self.add(pid, path.into(), AccessKind::Exec, began, None, call.took_ns);
            }
            "chdir" => {
                let path = self.named(pid, call, None, 0)?;
                self.state.change_directory(pid, path);
            }
            "fchdir" => {
                let path = self.path_of(pid, call, 0)?;
                self.state.change_directory(pid, path.to_vec());
            }
            "clone" | "clone3" | "fork" | "vfork" => {
                self.state.born(descriptor.ok()?, Some(pid), call.mentions("CLONE_FILES"));
            }
            _ => {}
        }
        Some(())
    }

    fn opened(&mut self, pid: u32, descriptor: u32, call: &Call<'_>, base: Option<usize>, name: usize) {
        let Some(path) = self.named(pid, call, base, name) else {
            return self.state.close(pid, descriptor, descriptor);
        };
        if call.mentions("O_TRUNC") || call.mentions("O_EXCL") || self.made.contains(&path) {
            return self.made_file(pid, descriptor, path);
        }
        self.state.open(pid, descriptor, path.into(), call.mentions("O_CLOEXEC"));
    }

    fn made_file(&mut self, pid: u32, descriptor: u32, path: Vec<u8>) {
        self.made.insert(path);
        self.state.close(pid, descriptor, descriptor);
    }

    /// The absolute path that an argument names.
    fn named(&mut self, pid: u32, call: &Call<'_>, base: Option<usize>, name: usize) -> Option<Vec<u8>> {
        let path = call.string(name)?;
        let base = base.and_then(|base| {
            let shown = call.argument(base).and_then(shown_path).map(Arc::from);
            shown.or_else(|| self.path_of(pid, call, base))
        });
        Some(self.state.absolute(pid, base, &path))
    }

    /// The path behind a descriptor: the one it was opened with, else the one that `-y` shows.
    fn path_of(&mut self, pid: u32, call: &Call<'_>, argument: usize) -> Option<Arc<[u8]>> {
        let known = call.descriptor(argument).and_then(|descriptor| self.state.file(pid, descriptor));
        let known = known.map(|open| Arc::clone(&open.path));
        let shown = || shown_path(call.argument(argument)?).filter(|path| !self.made.contains(path));
        known.or_else(|| shown().map(Arc::from))
    }

    /// `length` bytes were read through a descriptor, at `offset` or at its position, which then moves on.
    fn used(
        &mut self,
        pid: u32,
        began: u64,
        call: &Call<'_>,
        argument: usize,
        offset: Option<u64>,
        length: u64,
    ) {
        let Some(path) = self.path_of(pid, call, argument) else { return };
        let open = call.descriptor(argument).and_then(|descriptor| self.state.file(pid, descriptor));
        let offset = match (offset, open) {
            (Some(offset), _) => offset,
            (None, Some(open)) => {
                let at = open.position;
                open.position = at.saturating_add(length);
                at
            }
            (None, None) => 0,
        };
        self.add(pid, path, AccessKind::Read, began, Some((offset, length)), call.took_ns);
    }

    fn add(
        &mut self,
        pid: u32,
        path: Arc<[u8]>,
        kind: AccessKind,
        t_ns: u64,
        range: Option<(u64, u64)>,
        wait_ns: u64,
    ) {
        if range.is_some_and(|(_, length)| length == 0) {
            return;
        }
        let comm =
            self.state.process(pid).map_or_else(|| Arc::from(&b""[..]), |process| Arc::clone(&process.comm));
        let process = shared(&mut self.processes, Process { pid, comm });
        self.uses
            .push((path, Use { t_ns, phase: Phase::Start, kind, range, process: Some(process), wait_ns }));
    }
}

fn is_fork(start: &[u8]) -> bool {
    [&b"clone("[..], b"clone3(", b"fork(", b"vfork("].iter().any(|name| start.starts_with(name))
}

/// An offset given by reference: `[4096]`, or `[0] => [4096]` with what it was before; `None` for `NULL`.
fn bracketed(call: &Call<'_>, argument: usize) -> Option<u64> {
    let text = call.argument(argument)?.strip_prefix(b"[")?;
    let end = text.iter().position(|&byte| byte == b']')?;
    call::integer(&text[..end]).and_then(|offset| u64::try_from(offset).ok())
}
