//! How the registry of a workload's image is spoken to, by this program and by the snapshotter that `soci run` starts. The
//! flags are those of other commands but for one: `--user` is the workload's user here, so the credential is
//! `--registry-user`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use crate::error::words;
use crate::hint::Hinted;
use crate::sources::RegistryFlags;

/// Flags about the registry.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = crate::help::heading::REGISTRY)]
pub(crate) struct WorkloadRegistry {
    /// Speak plain HTTP to the image's registry.
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// Credential for the registry, in place of the docker configuration's.
    #[arg(long, value_name = "NAME[:PASSWORD]")]
    registry_user: Option<String>,
    /// OAuth2 refresh token for the registry, in place of a password.
    #[arg(long, value_name = "TOKEN", conflicts_with = "registry_user")]
    refresh: Option<String>,
    /// Do not verify the registry's TLS certificate.
    #[arg(long, short = 'k')]
    skip_verify: bool,
    /// Certificates (PEM) that are trusted beside the system's.
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// Our certificate (PEM), for registries that ask for one.
    #[arg(long, value_name = "FILE", requires = "tlskey")]
    tlscert: Option<PathBuf>,
    /// The key (PEM) of our certificate.
    #[arg(long, value_name = "FILE", requires = "tlscert")]
    tlskey: Option<PathBuf>,
    /// Directory with HOST/hosts.toml files: mirrors, certificates, headers.
    /// [default: /etc/containerd/certs.d, then /etc/docker/certs.d]
    #[arg(long, value_name = "DIR")]
    hosts_dir: Option<PathBuf>,
}

impl WorkloadRegistry {
    /// The same in the words of other commands.
    pub(crate) fn flags(&self) -> RegistryFlags {
        RegistryFlags {
            plain_http: self.plain_http,
            user: self.registry_user.clone(),
            refresh: self.refresh.clone(),
            skip_verify: self.skip_verify,
            tlscacert: self.tlscacert.clone(),
            tlscert: self.tlscert.clone(),
            tlskey: self.tlskey.clone(),
            hosts_dir: self.hosts_dir.clone(),
            ..RegistryFlags::default()
        }
    }

    /// The first of the flags that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--plain-http", self.plain_http),
            ("--registry-user", self.registry_user.is_some()),
            ("--refresh", self.refresh.is_some()),
            ("--skip-verify", self.skip_verify),
            ("--tlscacert", self.tlscacert.is_some()),
            ("--tlscert", self.tlscert.is_some()),
            ("--hosts-dir", self.hosts_dir.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    /// The directory of a docker configuration with the credential, below `root`, for another process; none when none was
    /// given.
    pub(crate) fn docker_config(&self, root: &Path, host: &str) -> Result<Option<PathBuf>> {
        let auth = match (&self.registry_user, &self.refresh) {
            (Some(user), _) => {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                json!({"username": name, "password": password})
            }
            (None, Some(token)) => json!({"identitytoken": token}),
            (None, None) => return Ok(None),
        };
        let dir = root.join("docker");
        private_dir(&dir)?;
        let path = dir.join("config.json");
        let write = || -> Result<()> {
            let mut file =
                fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            Ok(file.write_all(&serde_json::to_vec(&json!({"auths": {host: auth}}))?)?)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Some(dir))
    }

    /// The directory of hosts.toml files for another process: the user's, or one below `root` that says of certificates
    /// what the flags say; none where the defaults count.
    pub(crate) fn hosts_for(&self, root: &Path, host: &str) -> Result<Option<PathBuf>> {
        let tls = self.skip_verify || self.tlscacert.is_some() || self.tlscert.is_some();
        if let Some(dir) = &self.hosts_dir {
            if tls {
                bail!("--hosts-dir says everything of a registry: leave out the flags about certificates");
            }
            return Ok(Some(absolute(dir)?));
        }
        if !tls {
            return Ok(None);
        }
        let quoted = |text: &str| serde_json::Value::from(text).to_string(); // a JSON string is a TOML string, too
        let file = |path: &Path| -> Result<String> { Ok(quoted(&absolute(path)?.to_string_lossy())) };
        let url = quoted(&format!("https://{host}"));
        let mut text = format!("server = {url}\n\n[host.{url}]\nskip_verify = {}\n", self.skip_verify);
        if let Some(path) = &self.tlscacert {
            text = format!("{text}ca = {}\n", file(path)?);
        }
        if let Some((certificate, key)) = self.tlscert.as_ref().zip(self.tlskey.as_ref()) {
            text = format!("{text}client = [[{}, {}]]\n", file(certificate)?, file(key)?);
        }
        let dir = root.join("certs.d");
        private_dir(&dir)?;
        private_dir(&dir.join(host))?;
        let path = dir.join(host).join("hosts.toml");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Some(dir))
    }
}

/// What a failure to get at an image means for a user of these commands.
pub(crate) fn hinted(error: anyhow::Error) -> anyhow::Error {
    use soci_core::image::ImageError;
    use soci_core::registry::RegistryError;
    let refused = |error: &RegistryError| {
        matches!(error, RegistryError::Unauthorized { .. } | RegistryError::Denied { .. })
    };
    let is_refused = error.chain().any(|cause| {
        cause.downcast_ref::<RegistryError>().is_some_and(refused)
            || matches!(cause.downcast_ref::<ImageError>(), Some(ImageError::Registry(error)) if refused(error))
    });
    if !is_refused {
        return error;
    }
    let hint = "give --registry-user NAME[:PASSWORD], or log in so that the docker configuration has the credential \
                (--user is the workload's user)";
    Hinted::new(words(&error), hint).into()
}

fn private_dir(dir: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("cannot make {}", dir.display()))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().with_context(|| format!("cannot find {}", path.display()))
}
