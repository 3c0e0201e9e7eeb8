//! Platforms (`os/arch[/variant]`), with containerd's normalisation. Holds no state.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::json::null_is_default;

/// Operating system and processor of an image, in Go's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `GOARCH`: amd64, arm64, ...
    #[serde(default, deserialize_with = "null_is_default")]
    pub architecture: String,
    /// `GOOS`: linux, ...
    #[serde(default, deserialize_with = "null_is_default")]
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(
        rename = "os.version",
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Features of the operating system (Windows).
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// Variant of the processor: v7, v8, ...
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A text that is not a platform.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?}: expected os/arch[/variant]")]
pub struct PlatformError(String);

impl Platform {
    /// `os/architecture` without variant, normalised.
    pub fn new(os: &str, architecture: &str) -> Self {
        Self { os: os.into(), architecture: architecture.into(), ..Self::default() }.normalized()
    }

    /// The platform this program was built for, as containerd names it (variant `v8` on arm64).
    pub fn host() -> Self {
        let mut host = Self::new(std::env::consts::OS, std::env::consts::ARCH);
        if host.architecture == "arm64" {
            host.variant = "v8".into();
        }
        host
    }

    /// Well-known other names replaced by Go's (`x86_64` by `amd64`, ...), the default variant left out.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let mut p = self.clone();
        p.os = p.os.to_lowercase();
        if p.os == "macos" {
            p.os = "darwin".into();
        }
        p.variant = p.variant.to_lowercase();
        let (architecture, variant) = match (p.architecture.to_lowercase().as_str(), p.variant.as_str()) {
            ("i386" | "x86", _) => ("386", String::new()),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", String::new()),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant.to_owned()),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", String::new()),
            ("aarch64" | "arm64", variant) => ("arm64", variant.to_owned()),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7".into()),
            ("armel", _) => ("arm", "v6".into()),
            ("arm", variant @ ("5" | "6" | "8")) => ("arm", format!("v{variant}")),
            (other, _) => {
                p.architecture = other.into();
                return p;
            }
        };
        p.architecture = architecture.into();
        p.variant = variant;
        p
    }

    /// This platform, and those whose images run on it, the best first: a lower variant of the same architecture, as containerd
    /// falls back. (containerd goes on to the 32-bit architecture; who wants that one names it.)
    pub fn choices(&self) -> Vec<Self> {
        let own = self.normalized();
        let (first, last, default) = match own.architecture.as_str() {
            "arm" => ("v8", 5, 7),
            "arm64" => ("v9", 8, 8),
            "amd64" => ("v4", 1, 1),
            _ => return vec![own],
        };
        let number = |variant: &str| variant.strip_prefix('v')?.parse::<u8>().ok();
        let held = if own.variant.is_empty() { Some(default) } else { number(&own.variant) };
        let Some(held) = held.filter(|held| number(first).is_some_and(|first| *held <= first)) else {
            return vec![own];
        };
        let lower = (last..held).rev().map(|n| Self { variant: format!("v{n}"), ..own.clone() }.normalized());
        std::iter::once(own.clone()).chain(lower).collect()
    }

    /// Whether an image for `other` can be taken when this platform is asked for.
    pub fn matches(&self, other: &Self) -> bool {
        let (a, b) = (self.normalized(), other.normalized());
        a.os == b.os && a.architecture == b.architecture && a.variant == b.variant
    }

    /// The platform of what is for none: attestations, and what lies beside an image.
    pub fn unknown() -> Self {
        Self::new("unknown", "unknown")
    }

    /// `unknown/unknown` marks entries that are no images (attestations).
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |w: &&str| {
            !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(word) {
            return Err(PlatformError(text.into()));
        }
        let variant = parts.get(2).map_or_else(String::new, |v| (*v).to_owned());
        Ok(Self { os: parts[0].into(), architecture: parts[1].into(), variant, ..Self::default() }
            .normalized())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_normalised() {
        for (text, want) in [
            ("linux/x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("Linux/armhf", "linux/arm/v7"),
            ("linux/riscv64", "linux/riscv64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), want);
        }
        for text in ["", "linux", "linux/", "a/b/c/d", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
        assert!(Platform::new("linux", "aarch64").matches(&"linux/arm64/v8".parse().unwrap()));
        assert!(!Platform::new("linux", "amd64").matches(&Platform::new("linux", "arm64")));
    }

    #[test]
    fn choices_go_down_the_variants() {
        let of = |text: &str| {
            let choices = text.parse::<Platform>().unwrap().choices();
            choices.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of("linux/arm"), "linux/arm/v7 linux/arm/v6 linux/arm/v5");
        assert_eq!(of("linux/arm/v6"), "linux/arm/v6 linux/arm/v5");
        assert_eq!(of("linux/arm/v5"), "linux/arm/v5");
        assert_eq!(of("linux/amd64/v3"), "linux/amd64/v3 linux/amd64/v2 linux/amd64");
        assert_eq!(of("linux/amd64"), "linux/amd64");
        assert_eq!(of("linux/arm64"), "linux/arm64");
        assert_eq!(of("linux/arm64/v9"), "linux/arm64/v9 linux/arm64");
        for text in ["linux/riscv64", "linux/arm/v99", "linux/arm/x", "windows/386"] {
            assert_eq!(of(text), text);
        }
    }
}
