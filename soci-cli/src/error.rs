//! What a failed command says and with which exit code it ends.
//!
//! Holds no state. One line `soci: <cause>: <cause>...` on standard error, then a hint where there is something the
//! user can do. Exit code 1, as upstream, for every failure including a wrong command line; `record` and `run` have
//! further codes of their own.

use std::process::ExitCode;

use soci_core::{image::ImageError, registry::RegistryError, store::StoreError};

/// Reports a wrong command line, or prints the help that was asked for.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let asked_for = !error.use_stderr();
    let help_without_command =
        error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    let _ = error.print(); // nobody left to tell when the terminal is gone
    if asked_for || help_without_command { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Reports a failed command.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("soci: {error:#}");
    if let Some(hint) = error.chain().find_map(hint) {
        eprintln!("hint: {hint}");
    }
    ExitCode::FAILURE
}

fn hint(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if let Some(error) = cause.downcast_ref::<Hinted>() {
        return Some(error.hint);
    }
    if let Some(error) = cause.downcast_ref::<ImageError>() {
        return match error {
            ImageError::NotFound(_) => Some(
                "an image on disk is named oci:DIR[:TAG] or oci-archive:FILE[:TAG]; other names are registry references",
            ),
            ImageError::Ambiguous(_) => Some("name one of them: oci:DIR:TAG"),
            ImageError::Registry(error) => registry_hint(error),
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<RegistryError>() {
        return registry_hint(error);
    }
    match cause.downcast_ref::<StoreError>()? {
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Some("run as root, or choose another store with --root DIR")
        }
        StoreError::NotALayout(_) => Some("an OCI image layout has the files oci-layout and index.json"),
        _ => None,
    }
}

fn registry_hint(error: &RegistryError) -> Option<&'static str> {
    match error {
        RegistryError::Unauthorized { .. } | RegistryError::Denied { .. } => {
            Some("give --user NAME[:PASSWORD], or log in so that the docker configuration has the credential")
        }
        RegistryError::Hosts { .. } | RegistryError::NotCapable { .. } => {
            Some("mend or remove the hosts.toml of this registry")
        }
        RegistryError::Transport { .. } => Some("a registry without TLS needs --plain-http"),
        _ => None,
    }
}

/// A failure with a hint of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Hinted {
    message: String,
    hint: &'static str,
}

impl Hinted {
    /// `message` is the error, `hint` what the user can do about it.
    pub(crate) fn new(message: impl Into<String>, hint: &'static str) -> Self {
        Self { message: message.into(), hint }
    }
}
