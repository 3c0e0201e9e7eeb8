//! What is mounted and what runs on this machine, for tests that must leave nothing behind. Owns nothing.

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

/// Writes back what is dirty and forgets the contents, names and attributes of all files.
pub fn drop_caches() {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").expect("run as root");
}
