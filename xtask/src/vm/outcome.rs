//! What came out of the checks of a guest, and the table of all guests.

use std::fmt::Write as _;
use std::time::Instant;

/// One check on one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) good: bool,
    /// What the table shows when it is good.
    pub(super) cell: String,
    /// Lines that explain it.
    pub(super) more: Vec<String>,
}

/// The checks of one guest, as its lines come in.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) checks: Vec<Check>,
    /// When the check before came in.
    since: Instant,
}

impl Outcome {
    pub(super) fn new() -> Self {
        Self { checks: Vec::new(), since: Instant::now() }
    }

    /// Takes a line of the guest's output: `::STATE NAME`, `:: MORE` of the check before; anything else is not for us.
    pub(super) fn take(&mut self, line: &str) {
        if let Some(more) = line.strip_prefix(":: ")
            && let Some(check) = self.checks.last_mut()
        {
            check.more.push(more.to_owned());
        } else if let Some((state, name)) = line.strip_prefix("::").and_then(|rest| rest.split_once(' ')) {
            let seconds = self.since.elapsed().as_secs_f64();
            self.since = Instant::now();
            let cell = if state == "refused" { state.to_owned() } else { format!("{seconds:.1} s") };
            let good = matches!(state, "ok" | "refused");
            self.checks.push(Check { name: name.to_owned(), good, cell, more: Vec::new() });
        }
    }
}

/// A table of the checks by kernel; a check that a kernel does not have is a dash.
pub(super) fn table(columns: &[(String, Vec<Check>)]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (_, checks) in columns {
        // A check that only some kernels have stands behind the one it follows there.
        let mut at = 0;
        for check in checks {
            let found = names.iter().position(|name| *name == check.name);
            let here = found.unwrap_or(at);
            if found.is_none() {
                names.insert(here, &check.name);
            }
            at = here + 1;
        }
    }
    let cell = |checks: &[Check], name: &str| match checks.iter().find(|check| check.name == name) {
        None => "-".to_owned(),
        Some(check) if check.good => check.cell.clone(),
        Some(_) => "FAILED".to_owned(),
    };
    let first = names.iter().map(|name| name.len()).max().unwrap_or(0);
    let mut text = format!("{:first$}", "");
    for (kernel, _) in columns {
        let _ = write!(text, "  {kernel:>24}"); // a String takes everything
    }
    for name in &names {
        let _ = write!(text, "\n{name:first$}");
        for (_, checks) in columns {
            let _ = write!(text, "  {:>24}", cell(checks, name));
        }
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_checks_and_checks_a_table() {
        let mut old = Outcome::new();
        for line in ["::ok doctor", "noise", "::refused record", ":: too old", "::FAILED push", ":: why"] {
            old.take(line);
        }
        let all: Vec<(bool, usize)> = old.checks.iter().map(|check| (check.good, check.more.len())).collect();
        assert_eq!(all, [(true, 0), (true, 1), (false, 1)]);
        let mut new = Outcome::new();
        for line in ["::ok doctor", "::ok another", "::ok push"] {
            new.take(line);
        }
        let table = table(&[("6.1".into(), old.checks), ("7.2".into(), new.checks)]);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["6.1", "7.2"]);
        assert_eq!(lines[1], ["doctor", "0.0", "s", "0.0", "s"]);
        assert_eq!(lines[2], ["another", "-", "0.0", "s"]);
        assert_eq!(lines[3], ["record", "refused", "-"]);
        assert_eq!(lines[4], ["push", "FAILED", "0.0", "s"]);
    }
}
