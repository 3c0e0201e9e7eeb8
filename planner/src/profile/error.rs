//! Why a profile cannot be taken.

use soci_core::budget::OverLimit;

/// Why a profile cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// It is no JSON of a profile.
    #[error("it is not a profile")]
    Json(#[source] serde_json::Error),
    /// It is compressed, and not well.
    #[error("its zstd frame cannot be read")]
    Zstd(#[source] std::io::Error),
    /// A later form.
    #[error("its schema is {0}, and this version knows 1")]
    Schema(u32),
    /// It says what cannot be.
    #[error("{place}: {reason}")]
    Wrong {
        /// Where in the document.
        place: String,
        /// What is wrong there.
        reason: &'static str,
    },
    /// It is too large.
    #[error(transparent)]
    Limit(#[from] OverLimit),
    /// Two workloads.
    #[error("one is of workload {0:?}, another one of {1:?}")]
    Workloads(String, String),
    /// Too many recordings.
    #[error("{0} runs are more than a profile keeps ({max})", max = super::MAX_RUNS)]
    Runs(usize),
}

impl ProfileError {
    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Workloads(..) => Some("name the workload that both are of: --name NAME"),
            Self::Runs(_) => Some("keep the latest ones: --keep-runs N"),
            Self::Schema(_) => Some("a later version of soci has written it: update soci"),
            _ => None,
        }
    }
}
