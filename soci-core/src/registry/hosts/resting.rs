//! Mirrors that could not be reached are left alone for a while, so that not each operation waits for them.
//!
//! [`Resting`] owns the list; it is shared by all operations of a registry client.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::super::error::RegistryError;
use super::Endpoint;

/// How long a mirror is left alone.
const REST: Duration = Duration::from_secs(30);

/// Mirrors that are left alone, and until when.
#[derive(Debug, Default)]
pub(crate) struct Resting(Mutex<HashMap<Endpoint, Instant>>);

impl Resting {
    /// Whether `endpoint` is left alone now.
    pub(crate) fn has(&self, endpoint: &Endpoint) -> bool {
        let mut resting = self.0.lock();
        match resting.get(endpoint) {
            Some(until) if *until > Instant::now() => true,
            Some(_) => {
                resting.remove(endpoint);
                false
            }
            None => false,
        }
    }

    /// Notes that a mirror failed; only that it cannot be reached says something about its next answers.
    pub(crate) fn note(&self, endpoint: &Endpoint, error: &RegistryError) {
        if error.is_transient() {
            let (mut resting, now) = (self.0.lock(), Instant::now());
            resting.retain(|_, until| *until > now);
            resting.insert(endpoint.clone(), now + REST);
        }
        tracing::debug!(mirror = endpoint.host, %error, "the next server is asked");
    }
}
