//! What stands below the flags in `--help` and in the manual pages: examples, and the exit codes of commands that have codes of
//! their own. Holds no state.

/// Of the program.
pub(crate) const SOCI: &str = "\
Exit codes:
  0    done
  1    failed; standard error says why
  141  done, but the reader of standard output went away before it had all
optimize, record, run and doctor have further ones: see their help.";

/// The headings under which flags stand.
pub(crate) mod heading {
    /// Which images are meant.
    pub(crate) const INPUT: &str = "Input";
    /// What a plan is made of.
    pub(crate) const PLANNING: &str = "Planning";
    /// Where results go, and in which form.
    pub(crate) const OUTPUT: &str = "Output";
    /// How a registry is spoken to.
    pub(crate) const REGISTRY: &str = "Registry";
    /// The same in every command.
    pub(crate) const GLOBAL: &str = "Global";
}

pub(crate) const OPTIMIZE: &str = "\
Examples:
  soci optimize registry.example.com/app:v1 --until log:^READY --push
  soci optimize registry.example.com/app:v1 --until tcp:80 --to v1-fast --measure
  soci optimize oci:app -- /bin/app --once

Exit codes: 0 done; 1 failed; 3 accesses were lost while recording; 4 the workload was not ready in time, or ended
before it was; 5 the workload failed after it was ready; 126, 127 the command could not be executed; 129, 130, 143 stopped
by SIGHUP, SIGINT, SIGTERM. What was recorded is kept in every case.";

pub(crate) const REPORT: &str = "\
Example:
  soci report -o app.html app.trace";

pub(crate) const CREATE: &str = "\
Examples:
  soci create registry.example.com/app:v1
  soci create --trace app.trace registry.example.com/app:v1
  soci create --profile app.profile --exclude '*.pyc' --pack-budget 20MB --dry-run registry.example.com/app:v1";

pub(crate) const CONVERT: &str = "\
Examples:
  soci convert registry.example.com/app:v1 registry.example.com/app:v1-soci
  soci convert --standalone --format oci-dir oci:app ./app-soci";

pub(crate) const PUSH: &str = "\
Examples:
  soci push registry.example.com/app:v1
  soci push --image oci:app registry.example.com/app:v1";

pub(crate) const PULL: &str = "\
Examples:
  soci pull registry.example.com/app:v1
  soci -n k8s.io pull registry.example.com/app:v1
  ctr run --snapshotter soci registry.example.com/app:v1 app    # runs it

The daemon gets the bytes of lazy layers itself: a private registry needs credentials in its
configuration, too.";

pub(crate) const REBUILD: &str = "\
Example:
  soci rebuild-db";

pub(crate) const STATUS: &str = "\
Examples:
  soci status
  soci status --watch app:v1
  soci status --json | jq '.starts[0].bytes'";

pub(crate) const DOCTOR: &str = "\
Examples:
  soci doctor
  soci doctor registry.example.com/app:v1

Exit codes:
  0    nothing failed; there may be warnings
  1    a check failed";

pub(crate) const COMPLETION: &str = "\
Example:
  soci completion bash > /etc/bash_completion.d/soci";

pub(crate) const MAN: &str = "\
Example:
  soci man --dir /usr/local/share/man/man1";
