//! Registries: pull, ranged reads, referrers and push over the OCI distribution API.
//!
//! [`Registry`] (`client`) is the door. Behind it: `transport` sends one call with authentication (`auth`),
//! redirects and retries (`retry`); `range`, `source` and `body` read blobs, with second requests where nothing comes (`hedge`); `referrers`, `push` and `remove` do the rest; `hosts`
//! says which servers stand for a registry, and `link` makes the connections. Every answer is
//! hostile: each has a size limit, ranges must be exactly those asked for, digests are checked.
//!
//! Own code over an HTTP client rather than a registry crate's, because ranged reads must keep the redirect
//! target, obey Retry-After, check Content-Range, and tell "has none" from "did not let us in".

mod access;
mod auth;
mod body;
mod client;
mod content;
mod error;
mod follow;
mod hedge;
mod hosts;
mod link;
mod manners;
#[cfg(feature = "testing")]
mod network;
mod options;
mod partial;
mod pieces;
mod push;
mod range;
mod reference;
mod referrers;
mod remote;
mod remove;
mod reply;
mod retry;
mod source;
mod traffic;
mod transport;
mod upload;
mod wire;

pub use auth::{
    Anonymous, Credential, DockerAuths, DockerConfig, FixedCredential, Issued, Keychain, KeychainError,
    Keychains, decode_basic,
};
pub use body::{Giver, RangeBody};
pub use client::{Registry, Repository};
pub use content::Content;
pub use error::{FetchError, Phase, RegistryError};
pub use hosts::{Capabilities, HOSTS_DIRS, HostPolicy, HostsError, Server, Tls};
#[cfg(feature = "testing")]
pub use network::{Answer, Network};
pub use oci_client::ParseError;
pub use options::{RegistryOptions, Timeouts};
#[cfg(feature = "testing")]
pub(crate) use partial::parse_content_range;
pub use pieces::Pieces;
pub use push::Referrer;
pub use range::RangeFetcher;
pub use reference::{Reference, TagOrDigest};
pub use retry::RetryPolicy;
pub use traffic::{RequestKind, Traffic};
