//! What a push has brought to the registry, as `--json` prints it. Holds no state.

use anyhow::Result;
use serde::Serialize;
use soci_core::digest::Digest;

use crate::output::json::pretty;

/// The kind of a SOCI index of version 1.
const INDEX: &str = "soci index";

/// Something that the registry has now. The keys of its JSON are an interface.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Pushed {
    pub(super) digest: Digest,
    pub(super) kind: &'static str,
}

impl Pushed {
    pub(super) fn new(digest: Digest, kind: &'static str) -> Self {
        Self { digest, kind }
    }

    /// A SOCI index that was pushed by itself.
    pub(super) fn of_index(digest: Digest) -> Self {
        Self::new(digest, INDEX)
    }

    /// Its digest, if it is one.
    pub(super) fn index(&self) -> Option<Digest> {
        (self.kind == INDEX).then_some(self.digest)
    }

    /// Whether it refers to an image manifest, and is no part of the image.
    pub(super) fn is_referrer(&self) -> bool {
        !self.kind.starts_with("image ")
    }
}

/// The outcome for `--json`.
pub(super) fn tell(json: bool, image: &str, pushed: &[Pushed]) -> Result<()> {
    #[derive(Serialize)]
    struct Outcome<'a> {
        image: &'a str,
        pushed: &'a [Pushed],
    }
    if json {
        out!("{}", pretty(&Outcome { image, pushed })?);
    }
    Ok(())
}
