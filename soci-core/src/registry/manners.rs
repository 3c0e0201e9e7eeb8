//! What was learned about how servers give out blobs.
//!
//! [`Manners`] owns it, for all blobs of a registry client. It only saves requests: what is forgotten is learned again.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::hosts::Endpoint;

/// Servers that are remembered.
const MAX_SERVERS: usize = 1024;

/// All servers of which something is known.
#[derive(Debug, Default)]
pub(crate) struct Manners(Mutex<HashMap<Endpoint, Known>>);

#[derive(Debug, Default, Clone, Copy)]
struct Known {
    /// Its last blob came without a redirect.
    serves_blobs: bool,
    /// A part of a blob was asked for, and came as such.
    gives_parts: bool,
}

impl Manners {
    /// Whether this server is known to serve blobs itself, without redirects.
    pub(crate) fn serves_blobs(&self, server: &Endpoint) -> bool {
        self.0.lock().get(server).is_some_and(|known| known.serves_blobs)
    }

    /// Notes how this server answered for a blob.
    pub(crate) fn note_serves_blobs(&self, server: &Endpoint, itself: bool) {
        self.note(server, |known| known.serves_blobs = itself);
    }

    /// Whether this server, or where it redirects to, is known to give parts of blobs.
    pub(crate) fn gives_parts(&self, server: &Endpoint) -> bool {
        self.0.lock().get(server).is_some_and(|known| known.gives_parts)
    }

    /// Notes whether a part that was asked for came as such.
    pub(crate) fn note_gives_parts(&self, server: &Endpoint, came: bool) {
        self.note(server, |known| known.gives_parts = came);
    }

    fn note(&self, server: &Endpoint, change: impl FnOnce(&mut Known)) {
        let mut all = self.0.lock();
        if let Some(known) = all.get_mut(server) {
            return change(known);
        }
        if all.len() >= MAX_SERVERS {
            all.clear();
        }
        change(all.entry(server.clone()).or_default());
    }
}
