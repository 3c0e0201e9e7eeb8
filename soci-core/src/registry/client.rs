//! The registry as the rest of the program sees it: repositories with manifests, blobs and referrers.
//!
//! [`Registry`] is one per process and cheap to clone; it owns the connections, the tokens and the counters.
//! Invariant: manifests and whole blobs handed out have the digest they were asked by.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::ACCEPT;
use http::{HeaderValue, Method};
use reqwest::Url;

use super::access::Action;
use super::body::RangeBody;
use super::error::{RegistryError, printable};
use super::hosts::{Capabilities, Endpoint, Hosts};
use super::link::Links;
use super::options::RegistryOptions;
use super::range::RangeFetcher;
use super::reference::{Reference, TagOrDigest};
use super::remote::Remote;
use super::source::BlobSource;
use super::traffic::{RequestKind, Traffic};
use super::transport::Transport;
use super::wire::Call;
use crate::any_digest::AnyDigest;
use crate::digest::{Digest, Hasher};

/// Largest manifest or index read, in bytes.
pub(crate) const MAX_MANIFEST: u64 = 8 << 20;

/// Memory taken for a blob because of its announced length alone, in bytes.
const MAX_RESERVED: u64 = 16 << 20;

const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// All registries, spoken to with one set of options.
#[derive(Debug, Clone)]
pub struct Registry {
    transport: Arc<Transport>,
    hosts: Arc<Hosts>,
}

impl Registry {
    /// Sets up the client; asks nobody anything.
    pub fn new(options: RegistryOptions) -> Self {
        let (transport, links) = (Arc::new(Transport::new(&options)), Links::new(&options));
        Self { transport, hosts: Arc::new(Hosts::new(options.hosts, links)) }
    }

    /// Makes ready what the first request would have to make: the trust roots and the grammar of references, each of which takes
    /// about a tenth of a second. Asks nobody anything. Blocking.
    pub fn make_ahead(&self) {
        self.hosts.make_ahead();
        // Only parsing makes the grammar; this is a name as good as any.
        let _: Result<Reference, _> = "localhost/image:tag".parse();
    }

    /// The repository that `reference` names; its tag and digest are not looked at.
    pub fn repository(&self, reference: &Reference) -> Repository {
        Repository {
            remote: Remote {
                transport: Arc::clone(&self.transport),
                hosts: Arc::clone(&self.hosts),
                reference: reference.clone(),
                host: reference.resolve_registry().into(),
                name: reference.repository().into(),
                meter: None,
            },
        }
    }

    /// Counters of everything done through this registry client.
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.transport.traffic)
    }
}

/// One repository of one registry.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(super) remote: Remote,
}

impl Repository {
    /// Counters of the registry client that this repository was made by.
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.remote.transport.traffic)
    }

    /// The same repository; what is asked through it is counted by `meter`, too. (Tokens are not: several repositories may use one.)
    #[must_use]
    pub fn metered(&self, meter: &Arc<Traffic>) -> Self {
        Self { remote: Remote { meter: Some(Arc::clone(meter)), ..self.remote.clone() } }
    }

    /// Registry host, with port if it has one.
    pub fn host(&self) -> &str {
        &self.remote.host
    }

    /// Name of the repository within the registry.
    pub fn name(&self) -> &str {
        &self.remote.name
    }

    /// The manifest or index that a tag or digest names: its bytes, their SHA-256, and their media type (Content-Type, empty if
    /// the server sent none).
    pub async fn manifest(&self, tag_or_digest: &str) -> Result<(Bytes, Digest, String), RegistryError> {
        let kind = RequestKind::Manifest;
        let wanted = &tag_or_digest.parse::<TagOrDigest>()?;
        let (mirrors, last) = self.remote.route().to(match wanted {
            TagOrDigest::Digest(_) => Capabilities::PULL,
            TagOrDigest::Tag(_) => Capabilities::RESOLVE,
        })?;
        for mirror in self.remote.transport.awake(mirrors) {
            match self.manifest_from(&mirror, wanted, kind, false).await {
                Err(error) => self.remote.transport.resting.note(&mirror, &error),
                found => return found,
            }
        }
        self.manifest_from(&last, wanted, kind, true).await
    }

    pub(super) async fn manifest_from(
        &self,
        server: &Endpoint,
        wanted: &TagOrDigest,
        kind: RequestKind,
        patient: bool,
    ) -> Result<(Bytes, Digest, String), RegistryError> {
        let path = format!("manifests/{wanted}");
        let mut call = self.remote.call(server, Method::GET, &path, kind, Action::Pull)?;
        call.patient = patient;
        call.headers.insert(ACCEPT, HeaderValue::from_static(MANIFEST_TYPES));
        let url = call.url.clone();
        let (bytes, stated, media_type) = self.read(&call, MAX_MANIFEST).await?;
        let expected = match wanted {
            TagOrDigest::Digest(digest) => Some(*digest),
            TagOrDigest::Tag(_) => stated,
        };
        if let Some(expected) = expected {
            check(&url, expected, expected.of(&bytes))?;
        }
        Ok((bytes.clone(), Digest::of(&bytes), media_type))
    }

    /// Sends `call` and reads the whole body, beginning again when it breaks off.
    async fn read(
        &self,
        call: &Call,
        limit: u64,
    ) -> Result<(Bytes, Option<AnyDigest>, String), RegistryError> {
        let mut budget = self.remote.transport.budget_for(call);
        loop {
            let reply = self.remote.transport.send_within(call, &mut budget).await?;
            let stated = reply.header("docker-content-digest").and_then(|text| text.parse().ok());
            let media_type = reply.media_type().unwrap_or_default();
            match reply.bytes(limit).await {
                Ok(bytes) => return Ok((bytes, stated, media_type)),
                Err(error) => self.remote.transport.pause(error, &mut budget).await?,
            }
        }
    }

    /// The whole blob, at most `max_size` bytes, with its digest checked.
    pub async fn blob(&self, digest: &Digest, max_size: u64) -> Result<Bytes, RegistryError> {
        let mut stream = self.blob_stream(digest).await?;
        let url = || self.remote.blob_name(digest);
        let too_large = || RegistryError::TooLarge { url: url(), limit: max_size };
        let announced = stream.remaining().unwrap_or(0);
        if announced > max_size {
            return Err(too_large());
        }
        let mut blob = BytesMut::with_capacity(announced.min(MAX_RESERVED) as usize);
        let mut hasher = Hasher::new();
        while let Some(piece) = stream.chunk().await? {
            if (blob.len() + piece.len()) as u64 > max_size {
                return Err(too_large());
            }
            hasher.update(&piece);
            blob.extend_from_slice(&piece);
        }
        let actual = hasher.finish();
        if actual != *digest {
            return Err(RegistryError::digest(url(), *digest, actual));
        }
        Ok(blob.freeze())
    }

    /// The whole blob as it arrives. The digest is the caller's to check.
    pub async fn blob_stream(&self, digest: &Digest) -> Result<RangeBody, RegistryError> {
        RangeBody::open_whole(Arc::new(BlobSource::new(self.remote.clone(), *digest))).await
    }

    /// The whole blob of `size` bytes, its digest checked. Of a server that is not known to give parts of blobs it is asked for as
    /// a part: the answer tells, at no cost, whether layers can be lazy there ([`RangeFetcher::gives_parts`]).
    pub async fn blob_of_size(&self, digest: &Digest, size: u64) -> Result<Bytes, RegistryError> {
        let source = BlobSource::new(self.remote.clone(), *digest);
        if size == 0 || source.gives_parts() == Some(true) {
            return self.blob(digest, size).await;
        }
        let body = RangeBody::open_all(Arc::new(source), size).await?;
        let blob = Bytes::from(body.collect().await?);
        let actual = Digest::of(&blob);
        if actual == *digest {
            return Ok(blob);
        }
        let url = self.remote.blob_name(digest);
        Err(RegistryError::digest(url, *digest, actual))
    }

    /// Whether the registry has the blob.
    pub async fn blob_exists(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let path = format!("blobs/{digest}");
        let call =
            self.remote.call(&self.remote.writer()?, Method::HEAD, &path, RequestKind::Push, Action::Push)?;
        match self.remote.transport.send(&call).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A reader of ranges of the blob `digest` of `size` bytes. Asks nobody anything yet.
    pub fn range_fetcher(&self, digest: Digest, size: u64) -> RangeFetcher {
        RangeFetcher::new(BlobSource::new(self.remote.clone(), digest), size)
    }
}

/// Refuses content that does not have the digest it should have.
pub(super) fn check(url: &Url, expected: AnyDigest, actual: AnyDigest) -> Result<(), RegistryError> {
    if actual == expected {
        return Ok(());
    }
    Err(RegistryError::digest(printable(url), expected, actual))
}
