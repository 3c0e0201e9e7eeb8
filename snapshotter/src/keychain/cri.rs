//! Credentials that a kubelet sends with its pulls.
//!
//! [`CriCredentials`] owns them, in memory alone: after a restart they come with the next pull. What must always hold: a
//! credential is given to the registry that it was sent for and to no other, and for the repository of its image alone; of
//! two for one repository the newer counts; their number has a limit.

use std::collections::HashMap;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use soci_core::registry::{Credential, Issued, Keychain, KeychainError, Reference};

use super::hosts;

/// Most repositories whose credentials are kept. The oldest credential goes first.
const MAX_KEPT: usize = 1024;

/// What a kubelet sent.
#[derive(Debug, Default)]
pub struct CriCredentials(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// By registry and repository.
    known: HashMap<(String, String), (u64, Credential)>,
    sent: u64,
}

impl CriCredentials {
    /// Keeps the credential that came with a pull of `image`. `server` is the address that it is for, if the kubelet said so;
    /// else it is for the image's own registry. What is no image has no credential.
    pub fn keep(&self, image: &str, server: &str, credential: Credential) {
        let Ok(reference) = image.parse::<Reference>() else { return };
        let own = hosts::registry(reference.registry());
        let registry = hosts::of_address(server).unwrap_or(own);
        let key = (registry.to_owned(), reference.repository().to_owned());
        let mut kept = self.0.lock();
        kept.sent += 1;
        let sent = kept.sent;
        kept.known.insert(key, (sent, credential));
        if kept.known.len() > MAX_KEPT {
            let oldest = kept.known.iter().min_by_key(|(_, (sent, _))| *sent).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                kept.known.remove(&oldest);
            }
        }
    }

    fn find(&self, host: &str, repository: &str) -> Credential {
        let key = (hosts::registry(host).to_owned(), repository.to_owned());
        let kept = self.0.lock();
        kept.known.get(&key).map_or(Credential::Anonymous, |(_, credential)| credential.clone())
    }
}

impl Keychain for CriCredentials {
    fn credential<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
        _: &'a [Credential],
    ) -> BoxFuture<'a, Result<Issued, KeychainError>> {
        async move { Ok(self.find(host, repository).into()) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Credential {
        Credential::RegistryToken(text.to_owned())
    }

    #[test]
    fn a_credential_is_for_its_registry_and_repository() {
        let kept = CriCredentials::default();
        kept.keep("redis:7", "", token("hub"));
        kept.keep("r.test:5000/team/app@sha256:0", "", token("no image"));
        kept.keep("r.test:5000/team/app:v1", "", token("old"));
        kept.keep("r.test:5000/team/app:v2", "", token("app"));
        kept.keep("r.test:5000/team/other", "https://mirror.test/", token("mirror"));
        for (host, repository, expected) in [
            ("index.docker.io", "library/redis", token("hub")),
            ("registry-1.docker.io", "library/redis", token("hub")),
            ("r.test:5000", "team/app", token("app")),
            ("r.test", "team/app", Credential::Anonymous),
            ("r.test:5000", "team", Credential::Anonymous),
            ("r.test:5000", "team/other", Credential::Anonymous),
            ("mirror.test", "team/other", token("mirror")),
            ("mirror.test", "team/app", Credential::Anonymous),
        ] {
            assert_eq!(kept.find(host, repository), expected, "{host}/{repository}");
        }
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let kept = CriCredentials::default();
        for number in 0..=MAX_KEPT {
            kept.keep(&format!("r.test/{number}"), "", token("x"));
        }
        assert_eq!(kept.find("r.test", "0"), Credential::Anonymous);
        assert_eq!(kept.find("r.test", "1"), token("x"));
        assert_eq!(kept.0.lock().known.len(), MAX_KEPT);
    }
}
