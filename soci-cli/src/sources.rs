//! Where images come from, in the words of the command line: registry flags, platforms, image names.
//!
//! Holds no state. Credentials: `--user`, else the docker configuration, else none.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use clap::Args;
use soci_core::{
    containerd::Containerd,
    digest::Digest,
    image::{Image, ImageError, ImageSource, Platform},
    registry::{
        Credential, DockerConfig, FixedCredential, HOSTS_DIRS, Keychain, Reference, Registry,
        RegistryOptions, RetryPolicy, Tls,
    },
    store::Artifact,
};

use crate::{
    error::{words, words_of},
    global::Global,
    help::heading,
    hint::Hinted,
    root::{Root, connect},
};

/// In front of the name of an image that must be in containerd.
const IN_CONTAINERD: &str = "containerd://";
/// In front of the name of an image that must be in a registry.
const IN_REGISTRY: &str = "docker://";

/// How registries are spoken to.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RegistryFlags {
    /// Speak plain HTTP to the registry. Registries on loopback are spoken to like that without any flag.
    #[arg(long, help_heading = heading::REGISTRY)]
    pub(crate) plain_http: bool,
    /// Credential for the registry, in place of the docker configuration's.
    #[arg(long, help_heading = heading::REGISTRY, short = 'u', value_name = "USER[:PASSWORD]")]
    pub(crate) user: Option<String>,
    /// OAuth2 refresh token for the registry, in place of a password.
    #[arg(long, help_heading = heading::REGISTRY, value_name = "TOKEN", conflicts_with = "user")]
    pub(crate) refresh: Option<String>,
    /// Do not verify the registry's TLS certificate.
    #[arg(long, help_heading = heading::REGISTRY, short = 'k')]
    pub(crate) skip_verify: bool,
    /// Trust these certificate authorities (PEM) as well as the system's.
    #[arg(long, help_heading = heading::REGISTRY, value_name = "FILE")]
    pub(crate) tlscacert: Option<PathBuf>,
    /// Client certificate (PEM), for registries that ask for one.
    #[arg(long, help_heading = heading::REGISTRY, value_name = "FILE", requires = "tlskey")]
    pub(crate) tlscert: Option<PathBuf>,
    /// Key (PEM) of the client certificate.
    #[arg(long, help_heading = heading::REGISTRY, value_name = "FILE", requires = "tlscert")]
    pub(crate) tlskey: Option<PathBuf>,
    /// Print each HTTP request and the status of its answer to standard error.
    #[arg(long, help_heading = heading::REGISTRY, visible_alias = "http-trace")]
    pub(crate) http_dump: bool,
    /// Directory with HOST/hosts.toml files: mirrors, certificates, headers.
    /// [default: /etc/containerd/certs.d, then /etc/docker/certs.d]
    #[arg(long, help_heading = heading::REGISTRY, value_name = "DIR")]
    pub(crate) hosts_dir: Option<PathBuf>,
}

impl RegistryFlags {
    /// The client. The flags apply to the registry of `reference`; an image on disk has none.
    pub(crate) fn registry(&self, reference: &str) -> Result<Registry> {
        self.client(reference, RetryPolicy::default())
    }

    fn client(&self, reference: &str, retry: RetryPolicy) -> Result<Registry> {
        let mut options = RegistryOptions { retry, ..RegistryOptions::default() };
        let reference = reference.strip_prefix(IN_REGISTRY).unwrap_or(reference);
        let host = match reference.parse::<Reference>() {
            Ok(reference) if !is_local(&reference.whole()) => Some(reference.resolve_registry().to_owned()),
            _ => None,
        };
        options.hosts.dirs = match &self.hosts_dir {
            Some(dir) => vec![dir.clone()],
            None => HOSTS_DIRS.map(PathBuf::from).to_vec(),
        };
        if let Some(host) = &host {
            if self.plain_http {
                options.hosts.plain_http.insert(host.clone());
            }
            // On loopback, too: who speaks of certificates means TLS.
            let tls = self.tls()?;
            if tls != Tls::default() {
                options.hosts.tls.insert(host.clone(), tls);
            }
        }
        let given = match (&self.user, &self.refresh) {
            (Some(user), _) => {
                let (user, password) = user.split_once(':').unwrap_or((user, ""));
                Some(Credential::Basic { user: user.into(), password: password.into() })
            }
            (None, Some(token)) => Some(Credential::IdentityToken(token.clone())),
            (None, None) => None,
        };
        options.keychain = match (given, host) {
            (Some(credential), Some(host)) => {
                Arc::new(FixedCredential::new(host, credential)) as Arc<dyn Keychain>
            }
            _ => match docker_config() {
                Some(path) => Arc::new(DockerConfig::new(path)),
                None => options.keychain,
            },
        };
        if self.http_dump {
            options.watch = Some(|line| say!("{line}"));
        }
        Ok(Registry::new(options))
    }

    fn tls(&self) -> Result<Tls> {
        let read =
            |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let pair = self.tlscert.as_ref().zip(self.tlskey.as_ref());
        Ok(Tls {
            roots: self.tlscacert.iter().map(read).collect::<Result<_>>()?,
            identity: pair
                .map(|(certificate, key)| anyhow::Ok([read(certificate)?, read(key)?].concat()))
                .transpose()?,
            skip_verify: self.skip_verify,
        })
    }
}

/// Finds an image by the user's text: `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `containerd://NAME`, `docker://NAME`; any
/// other name is containerd's if containerd answers and has it, else a registry's.
pub(crate) async fn find(text: &str, root: &Root, flags: &RegistryFlags) -> Result<ImageSource> {
    let containerd = match text {
        text if text.starts_with(IN_CONTAINERD) => Some(root.must_have_containerd()?),
        text if is_elsewhere(text) => None,
        _ => root.containerd()?,
    };
    find_with(text, containerd, flags).await
}

/// The containerd that may have an image, for a command that has no store.
pub(crate) fn containerd_for(text: &str, global: &Global) -> Result<Option<Containerd>> {
    let socket = global.socket();
    if text.starts_with(IN_CONTAINERD) {
        return connect(&socket, global.namespace()).map(Some);
    }
    if is_elsewhere(text) || !socket.exists() {
        return Ok(None);
    }
    let answer = connect(&socket, global.namespace());
    Ok(answer.inspect_err(|error| say!("note: going on without containerd: {}", words(error))).ok())
}

/// Does the text name a place that is not containerd?
fn is_elsewhere(text: &str) -> bool {
    is_local(text) || text.starts_with(IN_REGISTRY)
}

/// Finds an image as [`find`] does, with the containerd that answers.
pub(crate) async fn find_with(
    text: &str,
    containerd: Option<&Containerd>,
    flags: &RegistryFlags,
) -> Result<ImageSource> {
    if let Some(name) = text.strip_prefix(IN_CONTAINERD) {
        let containerd = containerd.context("containerd did not answer")?;
        let found = in_containerd(name, containerd).await?;
        return Ok(found.ok_or_else(|| ImageError::NotFound(name.to_owned()))?);
    }
    if is_elsewhere(text) {
        let name = text.strip_prefix(IN_REGISTRY).unwrap_or(text);
        return Ok(ImageSource::parse(name, &flags.registry(text)?)?);
    }
    let Some(containerd) = containerd else {
        return Ok(ImageSource::parse(text, &flags.registry(text)?)?);
    };
    if let Some(found) = in_containerd(text, containerd).await? {
        return Ok(found);
    }
    // To a user of containerd the image is missing there, whatever keeps the registry from helping out.
    let impatient = flags.client(text, RetryPolicy { max_retries: 1, ..RetryPolicy::default() })?;
    match ImageSource::parse(text, &impatient)?.document().await {
        Err(ImageError::NotFound(_)) => Err(ImageError::NotFound(text.to_owned()).into()),
        Err(error) => {
            say!("note: containerd has no such image, and its registry failed: {}", words_of(&error));
            Err(ImageError::NotFound(text.to_owned()).into())
        }
        Ok(_) => Ok(ImageSource::parse(text, &flags.registry(text)?)?),
    }
}

/// Finds an image of containerd's by its full name, or by one that is short for it.
pub(crate) async fn in_containerd(name: &str, containerd: &Containerd) -> Result<Option<ImageSource>> {
    if let Some(found) = ImageSource::containerd(name, containerd).await? {
        return Ok(Some(found));
    }
    Ok(ImageSource::containerd(&full_name(name), containerd).await?)
}

/// Which platforms of an image are meant.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PlatformFlags {
    /// Every platform of the image.
    #[arg(long, help_heading = heading::INPUT)]
    pub(crate) all_platforms: bool,
    /// A platform, os/arch[/variant]; may be repeated. The default is this machine's.
    #[arg(help_heading = heading::INPUT, long = "platform", short = 'p', value_name = "PLATFORM", value_delimiter = ',')]
    pub(crate) platforms: Vec<String>,
}

/// An image to work on, and which of its platforms.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageArgs {
    /// The image: oci:DIR[:TAG], oci-archive:FILE[:TAG], or a name, which is containerd's if containerd has it
    /// (containerd://NAME: must have it) and else a registry's (docker://NAME: at once).
    image: Option<String>,
    #[command(flatten)]
    platforms: PlatformFlags,
    #[command(flatten)]
    registry: RegistryFlags,
}

impl ImageArgs {
    /// This image, for this machine's platform.
    pub(crate) fn of(image: String, registry: RegistryFlags) -> Self {
        Self { image: Some(image), platforms: PlatformFlags::default(), registry }
    }

    /// Where the image is, and the image of each platform that is meant.
    pub(crate) async fn resolve(&self, root: &Root) -> Result<(ImageSource, Vec<Image>)> {
        let name = self.image.as_deref().filter(|name| !name.is_empty());
        let source = find(name.context("source image needs to be specified")?, root, &self.registry).await?;
        let images = self.platforms.images(&source).await?;
        Ok((source, images))
    }
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

    /// The platforms meant for this image; `None` when the command line does not say.
    pub(crate) async fn asked(&self, source: &ImageSource) -> Result<Option<Vec<Platform>>> {
        if self.all_platforms {
            return Ok(Some(source.platforms().await?));
        }
        let named = self.named()?;
        Ok(if named.is_empty() { None } else { Some(named) })
    }

    /// The image of each platform that is meant.
    pub(crate) async fn images(&self, source: &ImageSource) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        for platform in self.of(source).await? {
            images.push(self.image(source, &platform).await?);
        }
        Ok(images)
    }

    /// The image of a platform.
    pub(crate) async fn image(&self, source: &ImageSource, platform: &Platform) -> Result<Image> {
        let image = source.resolve(platform).await?;
        if !self.platforms.is_empty() {
            must_be_for(platform, &image)?;
        }
        Ok(image)
    }

    /// The platforms meant for this image, by default this machine's.
    pub(crate) async fn of(&self, source: &ImageSource) -> Result<Vec<Platform>> {
        Ok(self.asked(source).await?.unwrap_or_else(|| vec![Platform::host().normalized()]))
    }
}

/// Refuses an image that is a single manifest of another platform than the one that was named. Lists were searched for it.
pub(crate) fn must_be_for(platform: &Platform, image: &Image) -> Result<()> {
    let (own, wanted) = (image.config.platform.normalized(), platform.normalized());
    let alone = image.target_digest() == image.manifest.digest;
    // Configurations often leave the variant out.
    let other = (&own.os, &own.architecture) != (&wanted.os, &wanted.architecture);
    if alone && other && !own.architecture.is_empty() {
        return Err(Hinted::new(
            ImageError::NoPlatform(platform.clone()).to_string(),
            format!("{} is one image, for {own}", image.reference),
        )
        .into());
    }
    Ok(())
}

/// The recorded indexes of an image: those that were made of it under this name, and those of what containerd has under
/// it. Newest first. An image that is in neither place is an error.
pub(crate) fn indexes_of(name: &str, root: &Root) -> Result<Vec<Artifact>> {
    let full = full_name(name);
    let mut digests: Vec<Digest> = Vec::new();
    let mut known = false;
    if let Some(containerd) = root.containerd()? {
        let (it, name) = (containerd.clone(), name.to_owned());
        let found = containerd.wait(async move {
            let Some(source) = in_containerd(&name, &it).await? else { return Ok(None) };
            let (target, _) = source.document().await?;
            let whole = source.whole().await?;
            let manifests = whole.manifests.iter().map(|manifest| manifest.digest);
            Ok::<_, anyhow::Error>(Some(target.map(|t| t.digest).into_iter().chain(manifests).collect()))
        })?;
        known = found.is_some();
        digests = found.unwrap_or_default();
    }
    let mut indexes = root.indexes()?;
    indexes.retain(|index| {
        let by_name = index.image_ref.as_deref().is_some_and(|own| own == full || own == name);
        let by_digest = [Some(index.oci_digest), index.image_digest].into_iter().flatten();
        by_name || by_digest.into_iter().any(|digest| digests.contains(&digest))
    });
    if indexes.is_empty() && !known {
        return Err(ImageError::NotFound(full).into());
    }
    Ok(indexes)
}

/// The names that containerd has for each digest.
pub(crate) fn names_in_containerd(root: &Root) -> Result<HashMap<Digest, Vec<String>>> {
    let mut names: HashMap<Digest, Vec<String>> = HashMap::new();
    if let Some(containerd) = root.containerd()? {
        let it = containerd.clone();
        for image in containerd.wait(async move { it.images().await })? {
            names.entry(image.target.digest).or_default().push(image.name);
        }
    }
    for names in names.values_mut() {
        names.sort();
    }
    Ok(names)
}

/// The name under which an image is recorded: a registry reference in full, an image on disk as it is written.
pub(crate) fn full_name(text: &str) -> String {
    if is_local(text) {
        return text.to_owned();
    }
    let text = text.strip_prefix(IN_CONTAINERD).or(text.strip_prefix(IN_REGISTRY)).unwrap_or(text);
    text.parse::<Reference>().map_or_else(|_| text.to_owned(), |reference| reference.whole())
}

/// Checks that a name can be that of a tagged image, as containerd's destinations have to be.
pub(crate) fn tagged(name: &str) -> Result<String> {
    let wrong = |why: String| {
        anyhow::anyhow!(
            "the destination image must be a tagged ref of the form \"registry/repository:tag\": {why}"
        )
    };
    let host = name.split_once('/').map_or("", |(host, _)| host);
    if host.is_empty() || !(host.contains(['.', ':']) || host == "localhost") {
        // containerd names images in full, and does not guess.
        bail!(wrong("could not parse reference: the registry is missing".to_owned()));
    }
    let reference: Reference =
        name.parse().map_err(|error| wrong(format!("could not parse reference: {error}")))?;
    if name.contains('@') {
        bail!(wrong("reference must not contain a digest".to_owned()));
    }
    if !name.rsplit('/').next().is_some_and(|last| last.contains(':')) {
        bail!(wrong("reference must be tagged".to_owned()));
    }
    Ok(reference.whole())
}

pub(crate) fn is_local(text: &str) -> bool {
    text.starts_with("oci:") || text.starts_with("oci-archive:")
}

fn docker_config() -> Option<PathBuf> {
    let dir = std::env::var_os("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")))?;
    Some(dir.join("config.json"))
}
