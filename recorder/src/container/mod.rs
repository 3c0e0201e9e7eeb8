//! Containers that somebody else starts, through containerd.
//!
//! Who asks containerd is none of this room's business: an adapter hands over [`Facts`], as it got them, and [`News`].
//! Here they are checked and understood: which of several new containers is meant ([`Wanted`]), where its layers are
//! ([`Container::new`]), and what `--attach` names ([`attach`]). Plain data; nothing is owned.

pub mod attach;
mod error;
mod layers;
mod runtime_spec;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use soci_core::digest::Digest;
use soci_core::trace::LayerRef;

use crate::workload::{Process, User};

pub use error::ContainerError;

/// What containerd says of a container. Nothing of it has been checked.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Containerd's namespace.
    pub namespace: String,
    /// Its id.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its image's name.
    pub image: String,
    /// Process id on the host of its first process.
    pub pid: u32,
    /// The mounts of its root file system: (type, options).
    pub mounts: Vec<(String, Vec<String>)>,
    /// Names of the snapshots below its own one, the topmost first.
    pub parents: Vec<String>,
    /// Digest of the image's manifest.
    pub manifest: Option<Digest>,
    /// The manifest's layers, lowest first.
    pub layers: Vec<LayerRef>,
    /// Digests of the plain layers, by the image's configuration.
    pub diff_ids: Vec<Digest>,
    /// Its OCI runtime specification, JSON.
    pub spec: Vec<u8>,
}

/// A container that can be recorded.
#[derive(Debug, Clone)]
pub struct Container {
    /// Containerd's namespace.
    pub namespace: String,
    /// Its id.
    pub id: String,
    /// Other names of it.
    pub names: Vec<String>,
    /// Is it a pod's sandbox?
    pub sandbox: bool,
    /// Its image's name.
    pub image: String,
    /// Process id on the host of its first process.
    pub pid: u32,
    /// Digest of the image's manifest.
    pub manifest: Digest,
    /// The image's layers, lowest first.
    pub layers: Vec<LayerRef>,
    /// Their directories, in the same order.
    pub dirs: Vec<PathBuf>,
    /// Where what it writes goes, if its snapshotter says so.
    pub upper: Option<PathBuf>,
    /// What it runs.
    pub process: Process,
    /// Who runs it.
    pub user: User,
}

impl Container {
    /// Checks what containerd says, and finds the directory of each layer.
    pub fn new(facts: Facts) -> Result<Self, ContainerError> {
        let manifest = facts.manifest.ok_or_else(|| ContainerError::NoImage(facts.image.clone()))?;
        if facts.diff_ids.len() != facts.layers.len() {
            return Err(ContainerError::Layers {
                manifest: facts.layers.len(),
                config: facts.diff_ids.len(),
            });
        }
        if facts.pid == 0 {
            return Err(ContainerError::NotRunning);
        }
        let dirs = layers::directories(&facts.mounts, &facts.parents, &facts.diff_ids)?;
        let upper = layers::writable(&facts.mounts);
        let (process, user) = runtime_spec::parse(&facts.spec)?;
        let (names, sandbox) = (names(&facts.labels), is_sandbox(&facts.labels));
        let Facts { namespace, id, image, pid, layers, .. } = facts;
        Ok(Self { namespace, id, names, sandbox, image, pid, manifest, layers, dirs, upper, process, user })
    }

    /// A directory in which its merged root file system can be looked at: its own while it runs, else its topmost layer.
    pub(crate) fn view(&self) -> PathBuf {
        let root = Path::new("/proc").join(self.pid.to_string()).join("root");
        match self.dirs.last() {
            Some(top) if root.join(".").metadata().is_err() => top.clone(),
            _ => root,
        }
    }
}

/// Names that labels give a container beside its id: by CRI, and by the command lines that Docker's users know.
pub fn names(labels: &BTreeMap<String, String>) -> Vec<String> {
    ["io.kubernetes.container.name", "nerdctl/name"]
        .iter()
        .filter_map(|key| labels.get(*key).cloned())
        .collect()
}

/// Do labels say that a container is a pod's sandbox, which only holds namespaces?
pub fn is_sandbox(labels: &BTreeMap<String, String>) -> bool {
    labels.get("io.cri-containerd.kind").is_some_and(|kind| kind == "sandbox")
}

/// Something that containerd tells.
#[derive(Debug)]
pub enum News {
    /// A container has its first process, whose command has not been executed yet.
    Created {
        /// Its id.
        id: String,
        /// What it is, or why it cannot be recorded.
        container: Box<Result<Container, ContainerError>>,
    },
    /// The first process of a container has ended.
    Exited {
        /// Containerd's namespace.
        namespace: String,
        /// The container's id.
        id: String,
        /// Its exit code, as a shell reports it.
        code: u8,
    },
    /// Nothing will be told any more.
    Lost(ContainerError),
}

/// Which new container is meant. By default the first that is no sandbox.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Its id, the beginning of it, or one of its names.
    pub name: Option<String>,
    /// Its image's name, or the end of it after a slash.
    pub image: Option<String>,
}

impl Wanted {
    /// Is it this one?
    pub fn is(&self, container: &Container) -> bool {
        let named = |name: &String| {
            container.id.starts_with(name.as_str()) || container.names.iter().any(|known| known == name)
        };
        let of_image = |image: &String| {
            let rest = container.image.strip_suffix(image.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        };
        let wished = self.name.is_some() || self.image.is_some();
        (wished || !container.sandbox)
            && self.name.as_ref().is_none_or(named)
            && self.image.as_ref().is_none_or(of_image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, image: &str, sandbox: bool) -> Container {
        Container {
            namespace: "k8s.io".into(),
            id: id.into(),
            names: vec!["web".into()],
            sandbox,
            image: image.into(),
            pid: 1,
            manifest: Digest::of(b""),
            layers: Vec::new(),
            dirs: Vec::new(),
            upper: None,
            process: Process { args: Vec::new(), env: Vec::new(), cwd: "/".into(), user: String::new() },
            user: User { uid: 0, gid: 0, groups: Vec::new(), home: "/".into() },
        }
    }

    #[test]
    fn a_sandbox_is_meant_only_by_name() {
        let (pause, app) =
            (container("aa11", "host/pause:3", true), container("bb22", "host/team/app:1", false));
        assert!(!Wanted::default().is(&pause) && Wanted::default().is(&app));
        let wanted = |name: Option<&str>, image: Option<&str>| Wanted {
            name: name.map(Into::into),
            image: image.map(Into::into),
        };
        assert!(wanted(Some("aa"), None).is(&pause));
        assert!(wanted(Some("web"), Some("app:1")).is(&app));
        assert!(wanted(None, Some("team/app:1")).is(&app) && wanted(None, Some("host/team/app:1")).is(&app));
        assert!(!wanted(None, Some("pp:1")).is(&app) && !wanted(Some("b2"), None).is(&app));
    }

    #[test]
    fn facts_that_do_not_fit_are_refused() {
        let facts = Facts { image: "app".into(), ..Facts::default() };
        assert!(matches!(Container::new(facts.clone()), Err(ContainerError::NoImage(_))));
        let facts = Facts { manifest: Some(Digest::of(b"")), ..facts };
        assert!(matches!(Container::new(facts.clone()), Err(ContainerError::NotRunning)));
        let facts = Facts { diff_ids: vec![Digest::of(b"")], ..facts };
        assert!(matches!(Container::new(facts), Err(ContainerError::Layers { .. })));
    }
}
