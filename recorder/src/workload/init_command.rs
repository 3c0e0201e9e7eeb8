//! How the recorder's helper processes are started. Plain values.

use std::ffi::OsString;

/// How the program executes itself: the words before the socket's path.
#[derive(Debug, Clone)]
pub struct InitCommand {
    /// The program, usually the running executable.
    pub program: OsString,
    /// The hidden subcommand that calls [`super::init::run`] with the next argument.
    pub args: Vec<OsString>,
    /// The hidden subcommand that calls [`super::guard::run`] with the next argument, if there is one.
    pub guard: Vec<OsString>,
}
