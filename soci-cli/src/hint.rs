//! What the user can do about an error. Holds no state. A hint must be true: it is given for a cause that is known, and a
//! cause that can have several remedies gets none that may be wrong.

use std::{error::Error, io};

use soci_core::{
    containerd::{ConnectError, ContainerdError, Unreachable},
    image::ImageError,
    registry::RegistryError,
    store::StoreError,
};

/// A failure with a hint of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Hinted {
    message: String,
    pub(crate) hint: String,
}

impl Hinted {
    /// `message` is the error, `hint` what the user can do about it.
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

/// The hint for one cause of an error.
pub(crate) fn of(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<Hinted>() {
        return Some(error.hint.clone());
    }
    let hint = if let Some(error) = cause.downcast_ref::<ImageError>() {
        image(error)
    } else if let Some(error) = cause.downcast_ref::<RegistryError>() {
        registry(error)
    } else if let Some(error) = cause.downcast_ref::<StoreError>() {
        store(error)
    } else if let Some(error) = cause.downcast_ref::<ContainerdError>() {
        containerd(error)
    } else {
        cause.downcast_ref::<ConnectError>().and_then(connection)
    };
    hint.map(str::to_owned)
}

fn image(error: &ImageError) -> Option<&'static str> {
    match error {
        ImageError::NotFound(_) => Some(
            "an image on disk is named oci:DIR[:TAG] or oci-archive:FILE[:TAG]; other names are registry references",
        ),
        ImageError::Ambiguous(_) => Some("name one of them: oci:DIR:TAG"),
        ImageError::CompressedArchive { compression: "zstd", .. } => Some("zstd -d FILE makes the tar"),
        ImageError::CompressedArchive { compression: "gzip", .. } => Some("gzip -dk FILE makes the tar"),
        ImageError::Registry(error) => registry(error),
        ImageError::Store(error) => store(error),
        _ => None,
    }
}

fn store(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Some("run as root, or choose another store with --root DIR")
        }
        StoreError::NotFound(_) => Some(
            "its record is older than the store: soci rebuild-db drops records of what is gone; then create it again",
        ),
        StoreError::NotALayout(_) => Some("an OCI image layout has the files oci-layout and index.json"),
        StoreError::Containerd(error) => containerd(error),
        _ => None,
    }
}

fn containerd(error: &ContainerdError) -> Option<&'static str> {
    match error {
        ContainerdError::Connect(error) => connection(error),
        _ => None,
    }
}

fn connection(error: &ConnectError) -> Option<&'static str> {
    match error.reason {
        Unreachable::Missing | Unreachable::Refused | Unreachable::Silent => {
            Some("start containerd, or name the socket of the one that runs with --address")
        }
        Unreachable::Denied => Some("run as a user who may use containerd's socket, such as root"),
        Unreachable::NotASocket | Unreachable::Foreign(_) => Some("name containerd's socket with --address"),
        _ => None,
    }
}

fn registry(error: &RegistryError) -> Option<&'static str> {
    match error {
        RegistryError::Unauthorized { .. } | RegistryError::Denied { .. } => Some(
            "log in to the registry (docker login, nerdctl login), or give --user NAME[:PASSWORD] where the command has it",
        ),
        RegistryError::Hosts { .. } | RegistryError::NotCapable { .. } => {
            Some("mend or remove the hosts.toml of this registry")
        }
        RegistryError::Transport { url, source } => transport(url, source),
        RegistryError::ReferrersTag { .. } => Some(
            "this registry lists what refers to an image under a tag: leave tags sha256-* out of the rule by which tags \
             cannot be changed, or push the result of soci convert, which needs no such tag",
        ),
        RegistryError::NotListed { .. } => {
            Some("nodes would not find it: push the result of soci convert, whose image index lists it")
        }
        _ => None,
    }
}

/// Why two machines do not come to talk is in the innermost causes.
fn transport(url: &str, error: &(dyn Error + 'static)) -> Option<&'static str> {
    let causes = || anyhow::Chain::new(error);
    let says = |text: &str| causes().any(|cause| cause.to_string().contains(text));
    let refused = causes()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        Some("nothing listens at that address: check the registry's name and port")
    } else if says("dns error") || says("failed to lookup address") {
        Some("check the registry's name, and this machine's DNS")
    } else if url.starts_with("https:") && says("corrupt message") {
        Some("the server does not speak TLS there; a registry without TLS needs --plain-http")
    } else if says("invalid peer certificate") {
        Some("--tlscacert FILE or a hosts.toml names the authority of the registry's certificate")
    } else {
        None
    }
}
