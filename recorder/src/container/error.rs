//! Why a container cannot be recorded.

/// Why a container cannot be recorded.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// Containerd did not answer as expected.
    #[error("{action}")]
    Runtime {
        /// What it was asked.
        action: String,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It was made without an image, or containerd does not have that any more.
    #[error("containerd has no manifest of its image {0:?}")]
    NoImage(String),
    /// Manifest and configuration do not fit.
    #[error("its image has {manifest} layers, the configuration names {config}")]
    Layers {
        /// In the manifest.
        manifest: usize,
        /// In the configuration.
        config: usize,
    },
    /// It has no process.
    #[error("it is not running")]
    NotRunning,
    /// The root file system is no overlay.
    #[error("its root file system is {0}, not an overlay of layer directories")]
    NoOverlay(String),
    /// The overlay's directories cannot be told from each other.
    #[error("its overlay has {directories} lower directories for {snapshots} snapshots")]
    Lower {
        /// Lower directories of the mount.
        directories: usize,
        /// Snapshots below the container's.
        snapshots: usize,
    },
    /// A layer of the image is not among the snapshots.
    #[error("layer {0} of its image is not among its snapshots")]
    NoLayer(usize),
    /// Its runtime specification cannot be read.
    #[error("its runtime specification")]
    Spec(#[source] serde_json::Error),
    /// Several containers or none have this name.
    #[error("{} running containers have the name or id {name:?}{}", .found.len(), list(.found))]
    Name {
        /// The name.
        name: String,
        /// Those that have it.
        found: Vec<String>,
    },
    /// A cgroup of several containers.
    #[error("{what} holds several containers: name one of {}", .found.join(", "))]
    Several {
        /// The cgroup.
        what: String,
        /// The containers.
        found: Vec<String>,
    },
    /// A process or cgroup is not in a container.
    #[error("{0} is not in a running container of containerd")]
    NoContainer(String),
    /// A cgroup cannot be used.
    #[error("{action} {path}")]
    Cgroup {
        /// What was being done.
        action: &'static str,
        /// Its directory.
        path: std::path::PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

fn list(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!(": {}", found.join(", ")) }
}
