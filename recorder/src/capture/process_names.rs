//! Names of the processes that ask for bytes.
//!
//! Owns a small cache from thread id to process. A name changes when a process executes another program, so an entry
//! is believed for a few milliseconds only, and not at all just after the thread has opened a file for execution.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use soci_core::trace::Process;

/// How long a name is believed.
const BELIEVED: Duration = Duration::from_millis(10);
/// How long after the opening of a program a name may still change.
const RESTLESS: Duration = Duration::from_millis(50);
/// Above this many threads the cache starts anew.
const MAX_THREADS: usize = 65536;

#[derive(Debug)]
struct Known {
    process: Arc<Process>,
    read_at: Instant,
    restless_until: Option<Instant>,
}

/// Looks up processes by thread id, as seen from the host.
#[derive(Debug, Default)]
pub(super) struct ProcessNames {
    known: Mutex<HashMap<u32, Known>>,
}

impl ProcessNames {
    /// The process of a thread; one that is gone keeps its last name, one never seen has an empty name.
    pub(super) fn get(&self, tid: u32, now: Instant) -> Arc<Process> {
        let mut known = self.known.lock();
        if let Some(entry) = known.get(&tid)
            && now.duration_since(entry.read_at) < BELIEVED
            && entry.restless_until.is_none_or(|until| until < now)
        {
            return Arc::clone(&entry.process);
        }
        if known.len() >= MAX_THREADS {
            known.clear();
        }
        let entry = known.entry(tid).or_insert_with(|| Known {
            process: Arc::new(Process { pid: tid, comm: Arc::from(&b""[..]) }),
            read_at: now,
            restless_until: None,
        });
        if let Some(process) = read(tid)
            && *entry.process != process
        {
            entry.process = Arc::new(process);
        }
        entry.read_at = now;
        Arc::clone(&entry.process)
    }

    /// The thread has opened a program: its name is about to change.
    pub(super) fn executes(&self, tid: u32, now: Instant) {
        self.get(tid, now);
        if let Some(entry) = self.known.lock().get_mut(&tid) {
            entry.restless_until = Some(now + RESTLESS);
        }
    }
}

/// Process id and name of a thread, from its status file.
fn read(tid: u32) -> Option<Process> {
    let status = fs::read(format!("/proc/{tid}/status")).ok()?;
    let field = |name: &[u8]| {
        status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name)).map(<[u8]>::trim_ascii)
    };
    let pid = std::str::from_utf8(field(b"Tgid:")?).ok()?.parse().ok()?;
    Some(Process { pid, comm: Arc::from(field(b"Name:")?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_named_by_its_process() {
        let names = ProcessNames::default();
        let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let process = names.get(tid, Instant::now());
        assert_eq!(process.pid, std::process::id());
        assert!(!process.comm.is_empty());
        assert!(Arc::ptr_eq(&process, &names.get(tid, Instant::now())));
        assert_eq!(&*names.get(u32::MAX, Instant::now()).comm, b"");
    }
}
