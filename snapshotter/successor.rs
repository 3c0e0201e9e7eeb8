//! The daemon once more, built with the feature `successor`: its version and its layout of layers are another release's. Tests
//! upgrade to it, and back. It owns nothing.

#[path = "src/main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}
