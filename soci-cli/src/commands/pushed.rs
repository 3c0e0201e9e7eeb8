//! What a push has brought to the registry, as `--json` prints it. Holds no state.

use anyhow::Result;
use serde::Serialize;
use soci_core::digest::Digest;

use crate::output::json::pretty;

/// Something that the registry has now. The keys of its JSON are an interface.
#[derive(Serialize)]
pub(super) struct Pushed {
    digest: Digest,
    kind: &'static str,
}

impl Pushed {
    pub(super) fn new(digest: Digest, kind: &'static str) -> Self {
        Self { digest, kind }
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
