//! What stands below the flags in `--help` and in the manual pages: examples, and the exit codes of commands that have codes of
//! their own. Holds no state.

/// Of the program.
pub(crate) const SOCI: &str = "\
Exit codes:
  0    done
  1    failed; standard error says why
  141  done, but the reader of standard output went away before it had all
record, run and doctor have further ones: see their help.";

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

pub(crate) const REPORT: &str = "\
Example:
  soci report -o app.html app.trace";

pub(crate) const CREATE: &str = "\
Examples:
  soci create registry.example.com/app:v1
  soci create --trace app.trace --span-layout trace --fine --pack registry.example.com/app:v1";

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
