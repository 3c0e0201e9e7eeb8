//! Whether a process or thread is dying: the kernel's word in /proc. No state lives here.

use std::fs;

/// SIGKILL in a mask of /proc. The kernel sets it for each thread of a process that any signal ends.
const KILLED: u64 = 1 << 8;

/// Whether a process has ended but for threads that cannot yet, or has been killed. One that is not there is not dying.
pub fn is_dying(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| has_sigkill(&status) || is_zombie(&status))
}

/// Whether a thread has SIGKILL, by its `status` of /proc.
pub(super) fn has_sigkill(status: &str) -> bool {
    let masks =
        status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")));
    masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & KILLED != 0)
}

fn is_zombie(status: &str) -> bool {
    status
        .lines()
        .any(|line| line.strip_prefix("State:").is_some_and(|state| state.trim().starts_with(['Z', 'X'])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_dying_when_it_has_a_sigkill() {
        assert!(has_sigkill("Name:\tdd\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000\n"));
        assert!(has_sigkill("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000102\n"));
        assert!(!has_sigkill(
            "SigPnd:\t0000000000000200\nShdPnd:\t0000000000004000\nSigBlk:\t0000000000000100\n"
        ));
        assert!(!has_sigkill("SigPnd"));
    }

    #[test]
    fn a_process_that_nobody_has_waited_for_is_dying_and_we_are_not() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        while !is_dying(child.id()) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!is_dying(child.id()) && !is_dying(std::process::id()));
        assert!(is_zombie("State:\tZ (zombie)\n") && !is_zombie("State:\tD (disk sleep)\n"));
    }
}
