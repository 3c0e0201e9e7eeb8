//! Where images come from, in the words of the command line: registry flags, platforms, image names.
//!
//! Holds no state. Credentials: `--user`, else the docker configuration, else none.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use clap::Args;
use soci_core::{
    image::{ImageSource, Platform},
    registry::{Credential, DockerConfig, FixedCredential, Keychain, Reference, Registry, RegistryOptions},
};

/// How registries are spoken to.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RegistryFlags {
    /// Speak plain HTTP to the registry (loopback registries always are).
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Credential for the registry, in place of the docker configuration's.
    #[arg(long, short = 'u', value_name = "USER[:PASSWORD]")]
    pub(crate) user: Option<String>,
}

impl RegistryFlags {
    /// The client. The flags apply to the registry of `reference`; an image on disk has none.
    pub(crate) fn registry(&self, reference: &str) -> Result<Registry> {
        let mut options = RegistryOptions::default();
        let host = match reference.parse::<Reference>() {
            Ok(reference) if !is_local(&reference.whole()) => Some(reference.resolve_registry().to_owned()),
            _ => None,
        };
        if let (true, Some(host)) = (self.plain_http, &host) {
            options.hosts.plain_http.insert(host.clone());
        }
        options.keychain = match (&self.user, host) {
            (Some(user), Some(host)) => {
                let (user, password) = user.split_once(':').unwrap_or((user, ""));
                let credential = Credential::Basic { user: user.into(), password: password.into() };
                Arc::new(FixedCredential::new(host, credential)) as Arc<dyn Keychain>
            }
            _ => match docker_config() {
                Some(path) => Arc::new(DockerConfig::new(path)),
                None => options.keychain,
            },
        };
        Registry::new(options).context("set up the registry client")
    }
}

/// Which platforms of an image are meant.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PlatformFlags {
    /// Every platform of the image.
    #[arg(long)]
    pub(crate) all_platforms: bool,
    /// A platform, os/arch[/variant]; may be repeated. The default is this machine's.
    #[arg(long = "platform", short = 'p', value_name = "PLATFORM", value_delimiter = ',')]
    pub(crate) platforms: Vec<String>,
}

impl PlatformFlags {
    /// The platforms named, if any.
    pub(crate) fn named(&self) -> Result<Vec<Platform>> {
        let parse = |text: &String| text.parse().with_context(|| format!("could not parse platform {text}"));
        let mut platforms: Vec<Platform> = Vec::new();
        for platform in self.platforms.iter().map(parse) {
            let platform: Platform = platform?;
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        Ok(platforms)
    }

    /// The platforms meant for this image.
    pub(crate) async fn of(&self, source: &ImageSource) -> Result<Vec<Platform>> {
        if self.all_platforms {
            return Ok(source.platforms().await?);
        }
        let named = self.named()?;
        Ok(if named.is_empty() { vec![Platform::host().normalized()] } else { named })
    }
}

/// The name under which an image is recorded: a registry reference in full, an image on disk as it is written.
pub(crate) fn full_name(text: &str) -> String {
    if is_local(text) {
        return text.to_owned();
    }
    text.parse::<Reference>().map_or_else(|_| text.to_owned(), |reference| reference.whole())
}

fn is_local(text: &str) -> bool {
    text.starts_with("oci:") || text.starts_with("oci-archive:")
}

fn docker_config() -> Option<PathBuf> {
    let dir = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")))?;
    Some(dir.join("config.json"))
}
