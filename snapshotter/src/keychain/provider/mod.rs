//! The kubelet's credential provider plugins: programs that know the credential for an image.
//!
//! [`CredentialProviders`] owns what they said, in memory, for as long as they allow; after a restart they are asked again.
//! The file that names them is read for each question, so that a change needs no restart. What must always hold: one program
//! at a time for each provider; an answer whose credential was refused is not given again; a provider that has just failed
//! rests for a moment.

mod answer;
mod file;
mod pattern;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use soci_core::error::chain;
use soci_core::registry::{Credential, Issued, Keychain, KeychainError};
use tokio::process::Command;

use self::answer::{Answer, CacheKey};
use self::file::Provider;
use super::{hosts, run};

/// Time that a provider has, as the kubelet gives it.
const LIMIT: Duration = Duration::from_mins(1);
/// How long one that has failed is not asked again.
const REST: Duration = Duration::from_secs(2);
/// The part of its time after which an answer is renewed. What is left is for renewals that fail.
const RENEWED_AFTER: f32 = 0.9;
/// A renewal that failed is tried again after this.
const NEXT_RENEWAL: Duration = Duration::from_secs(10);
/// Answers kept for each provider.
const MAX_KEPT: usize = 256;

/// Where providers are.
#[derive(Debug, Clone)]
pub struct ProviderOptions {
    /// The kubelet's `CredentialProviderConfig`.
    pub config: PathBuf,
    /// The directory of the programs.
    pub programs: PathBuf,
}

/// All providers.
#[derive(Debug)]
pub struct CredentialProviders {
    options: ProviderOptions,
    limit: Duration,
    said: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Said>>>>,
}

/// What one provider has said.
#[derive(Debug, Default)]
struct Said {
    kept: HashMap<String, Kept>,
    failed: Option<(Instant, String)>,
}

#[derive(Debug)]
struct Kept {
    answer: Answer,
    /// When the provider is asked again, while this is still good.
    renew: Instant,
    until: Instant,
}

/// Of an answer for all images.
const GLOBAL: &str = "";

impl CredentialProviders {
    /// Asks nobody anything yet.
    pub fn new(options: ProviderOptions) -> Self {
        Self { options, limit: LIMIT, said: Mutex::default() }
    }

    async fn find(&self, image: &str, refused: &[Credential]) -> Result<Issued, KeychainError> {
        let path = &self.options.config;
        let text = tokio::fs::read_to_string(path).await;
        let text = text.map_err(|source| KeychainError::Read { path: path.clone(), source })?;
        let providers = file::parse(&text)
            .map_err(|error| KeychainError::Other(format!("{}: {}", path.display(), chain(&error))))?;
        let is_for = |provider: &&Provider| provider.images.iter().any(|one| pattern::is_for(one, image));
        let (mut again, mut failure) = (None, None);
        for provider in providers.iter().filter(is_for) {
            match self.ask(provider, image, refused).await {
                Ok(issued) if issued.credential == Credential::Anonymous => {}
                Ok(issued) if refused.contains(&issued.credential) => again = again.or(Some(issued)),
                Ok(issued) => return Ok(issued),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match (again, failure) {
            (None, Some(error)) => Err(error),
            (again, _) => Ok(again.unwrap_or_else(|| Credential::Anonymous.into())),
        }
    }

    /// What a provider has for an image: what it said, or says now.
    async fn ask(
        &self,
        provider: &Provider,
        image: &str,
        refused: &[Credential],
    ) -> Result<Issued, KeychainError> {
        let said = Arc::clone(self.said.lock().entry(provider.name.clone()).or_default());
        let mut said = said.lock().await;
        let now = Instant::now();
        said.kept.retain(|_, kept| kept.until > now && !refused.contains(&kept.answer.credential(image)));
        let registry = image.split('/').next().unwrap_or_default();
        let keys = [image, registry, GLOBAL];
        let issued = |kept: &Kept| {
            let lifetime = Some(kept.until.saturating_duration_since(now));
            Issued { credential: kept.answer.credential(image), lifetime }
        };
        let known = keys.iter().find_map(|key| said.kept.get(*key));
        if let Some(kept) = known.filter(|kept| kept.renew > now) {
            return Ok(issued(kept));
        }
        let helper = &provider.name;
        let failed = |reason| KeychainError::Helper { helper: helper.clone(), reason };
        if let Some((_, reason)) = said.failed.as_ref().filter(|(at, _)| at.elapsed() < REST) {
            return Err(failed(reason.clone()));
        }
        match self.run(provider, image).await {
            Ok(answer) => {
                let lifetime = answer.cache.unwrap_or(provider.default_cache);
                let credential = answer.credential(image);
                said.keep(answer, keys, lifetime);
                Ok(Issued { credential, lifetime: Some(lifetime) })
            }
            Err(reason) => {
                tracing::warn!(provider = helper, error = reason, "credential provider failed");
                let known = keys.iter().find(|key| said.kept.contains_key(**key));
                if let Some(kept) = known.and_then(|key| said.kept.get_mut(*key)) {
                    kept.renew = now + NEXT_RENEWAL;
                    return Ok(issued(kept));
                }
                said.failed = Some((Instant::now(), reason.clone()));
                Err(failed(reason))
            }
        }
    }

    async fn run(&self, provider: &Provider, image: &str) -> Result<Answer, String> {
        if provider.needs_token {
            return Err("it wants a token of a pod's service account, which only the kubelet has".to_owned());
        }
        let mut command = Command::new(self.options.programs.join(&provider.name));
        command.args(&provider.args);
        command.envs(provider.env.iter().map(|variable| (&variable.name, &variable.value)));
        let question = answer::question(&provider.version, image);
        let answer = run::ask(command, &question, self.limit).await.map_err(|error| chain(&error))?;
        tracing::debug!(provider = provider.name, image, "credential provider has answered");
        Answer::parse(&answer, &provider.version)
    }
}

impl Said {
    /// Keeps an answer for the image, the registry or all, as it says.
    fn keep(&mut self, answer: Answer, [image, registry, global]: [&str; 3], lifetime: Duration) {
        self.failed = None;
        let key = match answer.key {
            CacheKey::Image => image,
            CacheKey::Registry => registry,
            CacheKey::Global => global,
        };
        let now = Instant::now();
        let has_room = self.kept.len() < MAX_KEPT || self.kept.contains_key(key);
        if let Some(until) = now.checked_add(lifetime).filter(|_| !lifetime.is_zero() && has_room) {
            let renew = now + lifetime.mul_f32(RENEWED_AFTER);
            self.kept.insert(key.to_owned(), Kept { answer, renew, until });
        }
    }
}

impl Keychain for CredentialProviders {
    fn credential<'a>(
        &'a self,
        host: &'a str,
        repository: &'a str,
        refused: &'a [Credential],
    ) -> BoxFuture<'a, Result<Issued, KeychainError>> {
        let image = format!("{}/{repository}", hosts::registry(host));
        async move { self.find(&image, refused).await }.boxed()
    }
}

#[cfg(test)]
mod tests;
