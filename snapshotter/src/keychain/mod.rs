//! Where the daemon's credentials come from, and who is asked first.
//!
//! In this order (docs/credentials.md): docker's configuration, what a kubelet sent with a pull (`cri`), the kubelet's
//! credential providers (`provider`), secrets of a cluster (`kubeconfig`). What must always hold: credentials are in memory
//! only and in no log line; each wait for a source has a limit; a source that fails does not keep others from being asked.

mod cri;
mod hosts;
mod kubeconfig;
mod provider;
mod run;

use std::path::PathBuf;
use std::sync::Arc;

use soci_core::registry::{DockerConfig, Keychain, Keychains};

pub use cri::CriCredentials;
pub use kubeconfig::Kubeconfig;
pub use provider::{CredentialProviders, ProviderOptions};

/// Which sources there are.
#[derive(Debug, Clone, Default)]
pub struct KeychainOptions {
    /// Docker's `config.json`.
    pub docker: PathBuf,
    /// Whether a kubelet sends credentials.
    pub cri: bool,
    /// The kubelet's credential providers.
    pub providers: Option<ProviderOptions>,
    /// The kubeconfig of a cluster with secrets.
    pub kubeconfig: Option<PathBuf>,
}

/// All sources.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Asks them in their order.
    pub keychain: Arc<dyn Keychain>,
    /// Where a kubelet's credentials are put.
    pub cri: Option<Arc<CriCredentials>>,
}

impl Sources {
    /// Asks nobody anything yet.
    pub fn new(options: KeychainOptions) -> Self {
        let cri = options.cri.then(|| Arc::new(CriCredentials::default()));
        let mut all: Vec<Arc<dyn Keychain>> = vec![Arc::new(DockerConfig::new(options.docker))];
        if let Some(cri) = &cri {
            all.push(Arc::<CriCredentials>::clone(cri));
        }
        if let Some(providers) = options.providers {
            all.push(Arc::new(CredentialProviders::new(providers)));
        }
        if let Some(kubeconfig) = options.kubeconfig {
            all.push(Arc::new(Kubeconfig::new(kubeconfig)));
        }
        Self { keychain: Arc::new(Keychains(all)), cri }
    }
}
