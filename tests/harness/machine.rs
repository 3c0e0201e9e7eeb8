//! What is mounted and what runs on this machine, for tests that must leave nothing behind. Owns nothing.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Mounts of this machine, as this process sees them, whose line mentions `word`.
pub fn mounts_mentioning(word: &str) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
    table.lines().filter(|line| line.contains(word)).map(str::to_owned).collect()
}

/// Processes whose command line mentions `word`: (process id, command line).
pub fn processes_mentioning(word: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if pid != std::process::id() && line.contains(word) {
            found.push((pid, line));
        }
    }
    found
}

/// Threads of programs that wait for all of `span` where no signal reaches them (state D): thread id, process name.
pub fn stuck_threads(span: Duration) -> Vec<(u32, String)> {
    let end = Instant::now() + span;
    let mut stuck = threads_in_d();
    while !stuck.is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
        let now = threads_in_d();
        stuck.retain(|thread| now.contains(thread));
    }
    stuck
}

fn threads_in_d() -> Vec<(u32, String)> {
    /// Its children are threads of the kernel.
    const KTHREADD: u32 = 2;
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let number = |name: &OsStr| name.to_str().and_then(|name| name.parse::<u32>().ok());
    let mut found = Vec::new();
    for process in entries(Path::new("/proc")).filter(|entry| number(&entry.file_name()).is_some()) {
        for thread in entries(&process.path().join("task")) {
            // It may have ended.
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            let Some((name, rest)) = stat.rsplit_once(')') else { continue };
            let mut fields = rest.split_whitespace();
            let (state, parent) = (fields.next(), fields.next().and_then(|parent| parent.parse().ok()));
            if state == Some("D") && ![Some(0), Some(KTHREADD)].contains(&parent) {
                let name = name.split_once('(').map_or("", |(_, name)| name);
                found.extend(number(&thread.file_name()).map(|id| (id, name.to_owned())));
            }
        }
    }
    found
}

/// Writes back what is dirty and forgets the contents, names and attributes of all files.
pub fn drop_caches() {
    rustix::fs::sync();
    forget_caches();
}

/// Forgets the contents, names and attributes of all files, but for what is dirty.
pub fn forget_caches() {
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("run as root");
}
