//! What is predicted: of one way to start, and of all of them over all links. Plain data.

use serde::Serialize;

/// A way to start a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// All layers are pulled and unpacked first.
    Full,
    /// Bytes come when they are read, by an index that was made without a profile.
    Lazy,
    /// As lazy, and what the prefetch artifacts name comes ahead.
    Prefetch,
    /// What is needed comes in a pack, the rest by a fine index.
    Pack,
    /// No system is faster.
    Bound,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Full, Self::Lazy, Self::Prefetch, Self::Pack, Self::Bound];

    /// Its name, as `soci run --mode` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Lazy => "lazy",
            Self::Prefetch => "prefetch",
            Self::Pack => "pack",
            Self::Bound => "bound",
        }
    }

    /// The mode with this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

/// A predicted start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Seconds from the request for the image to the workload's first instruction.
    pub begin: f64,
    /// Seconds from the request for the image until the workload is ready.
    pub ready: f64,
    /// Bytes of content that have come until then.
    pub bytes: f64,
    /// Requests for content that were made until then; those that find out about the image are not among them.
    pub requests: usize,
}
