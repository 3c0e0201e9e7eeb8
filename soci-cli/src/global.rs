//! The flags of every command. Plain values.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use clap::Args;

use crate::help::heading::GLOBAL;

/// Which content store is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreChoice {
    /// Our own, below the root directory.
    Soci,
    /// containerd's.
    Containerd,
    /// An OCI image layout directory.
    Layout(PathBuf),
}

impl FromStr for StoreChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("oci:")) {
            ("soci", _) => Ok(Self::Soci),
            ("containerd", _) => Ok(Self::Containerd),
            (_, Some(dir)) if !dir.is_empty() => Ok(Self::Layout(dir.into())),
            (other, _) => Err(format!(
                "unknown content store type: {other}; must be one of [soci containerd] or oci:DIR"
            )),
        }
    }
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Directory of the local store and its records; with run, of the snapshotter's state.
    /// [default: /var/lib/soci-snapshotter-grpc/; with run, a temporary one]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Where index, zTOC and prefetch blobs are kept: soci (below --root), containerd, or oci:DIR (an image layout).
    /// [default: containerd for an image that is there, else soci; both are looked into]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "STORE")]
    pub(crate) content_store: Option<StoreChoice>,
    /// containerd's socket, for its images and its content store. A unix:// prefix is accepted.
    #[arg(
        long,
        short = 'a',
        global = true, help_heading = GLOBAL,
        value_name = "SOCKET",
        env = "CONTAINERD_ADDRESS",
        default_value = "/run/containerd/containerd.sock"
    )]
    pub(crate) address: String,
    /// Namespace in containerd. [default: default; record of containers that somebody else starts: all]
    #[arg(long, short = 'n', global = true, help_heading = GLOBAL, env = "CONTAINERD_NAMESPACE")]
    namespace: Option<String>,
    /// Give up after this long: 60, 60s, 1m30s, 300ms. 0: never. record and run: the image must be there within this
    /// time, and the workload be ready as long after its start.
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "TIME", default_value = "0", value_parser = crate::output::duration::parse)]
    pub(crate) timeout: Duration,
    /// Log what is done, in detail.
    #[arg(long, global = true, help_heading = GLOBAL)]
    pub(crate) debug: bool,
}

impl Global {
    /// containerd's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.address.strip_prefix("unix://").unwrap_or(&self.address).into()
    }

    /// containerd's namespace.
    pub(crate) fn namespace(&self) -> &str {
        self.named_namespace().unwrap_or("default")
    }

    /// containerd's namespace, if the user names one.
    pub(crate) fn named_namespace(&self) -> Option<&str> {
        self.namespace.as_deref().filter(|name| !name.is_empty())
    }

    /// Directory of the local store.
    pub(crate) fn store_root(&self) -> &Path {
        self.root.as_deref().unwrap_or(Path::new("/var/lib/soci-snapshotter-grpc/"))
    }
}
