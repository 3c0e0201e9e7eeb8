//! Where credentials come from besides docker's configuration: `[cri_keychain]`, `[kubeconfig_keychain]`, and, ours,
//! `[credential_providers]`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Credentials that a kubelet sends with its pulls, and the image service on the daemon's socket through which they come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CriKeychain {
    /// Serve CRI's image service on the daemon's socket, and keep the credentials of its pulls in memory.
    pub enable_keychain: bool,
    /// Socket of the image service that calls are passed on to. Empty: containerd's.
    pub image_service_path: String,
}

impl Default for CriKeychain {
    fn default() -> Self {
        Self { enable_keychain: false, image_service_path: "/run/containerd/containerd.sock".to_owned() }
    }
}

impl CriKeychain {
    pub(super) fn fill(&mut self) {
        if self.image_service_path.is_empty() {
            self.image_service_path = Self::default().image_service_path;
        }
    }

    /// The socket of the image service.
    pub fn socket(&self) -> PathBuf {
        self.image_service_path.strip_prefix("unix://").unwrap_or(&self.image_service_path).into()
    }
}

/// Credentials in secrets of a Kubernetes cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KubeconfigKeychain {
    /// Use them.
    pub enable_keychain: bool,
    /// The kubeconfig. Empty: what `KUBECONFIG` names, else `~/.kube/config`.
    pub kubeconfig_path: String,
}

/// The kubelet's credential provider plugins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CredentialProviders {
    /// The `CredentialProviderConfig`: the kubelet's `--image-credential-provider-config`. Empty: no providers.
    pub config_path: String,
    /// Where the programs are: the kubelet's `--image-credential-provider-bin-dir`.
    pub bin_dir: String,
}
