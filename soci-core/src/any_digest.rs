//! Digests of the algorithms that image references may be pinned by.
//!
//! Owns no state. SOCI itself names content by SHA-256 alone ([`Digest`]); a user's pin may be another one, and is checked
//! as it is. Invariant: an [`AnyDigest`] has the length of its algorithm; its text form is lower case.

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;

use crate::digest::Digest;

/// A digest of some bytes by SHA-256, SHA-384 or SHA-512.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnyDigest {
    /// As SOCI uses it.
    Sha256(Digest),
    /// `sha384:` and 96 digits.
    Sha384([u8; 48]),
    /// `sha512:` and 128 digits.
    Sha512([u8; 64]),
}

/// Why a text is no digest that can be checked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnyDigestError {
    /// An algorithm that is not known here.
    #[error("digest algorithm {0:?} is not supported: use sha256, sha384 or sha512")]
    Algorithm(String),
    /// Not the hexadecimal digits of its algorithm.
    #[error("digest {0:?} does not have the hexadecimal digits of its algorithm")]
    Hex(String),
}

impl AnyDigest {
    /// The digest of `bytes` by the same algorithm.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> Self {
        match self {
            Self::Sha256(_) => Self::Sha256(Digest::of(bytes)),
            Self::Sha384(_) => Self::Sha384(sha2::Sha384::digest(bytes).into()),
            Self::Sha512(_) => Self::Sha512(sha2::Sha512::digest(bytes).into()),
        }
    }

    fn parts(&self) -> (&'static str, &[u8]) {
        match self {
            Self::Sha256(digest) => ("sha256", digest.as_bytes()),
            Self::Sha384(bytes) => ("sha384", bytes),
            Self::Sha512(bytes) => ("sha512", bytes),
        }
    }
}

impl From<Digest> for AnyDigest {
    fn from(digest: Digest) -> Self {
        Self::Sha256(digest)
    }
}

impl fmt::Display for AnyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (algorithm, bytes) = self.parts();
        write!(f, "{algorithm}:")?;
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AnyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AnyDigest {
    type Err = AnyDigestError;

    /// Reads a digest; digits may be upper case, as in image references.
    fn from_str(text: &str) -> Result<Self, AnyDigestError> {
        let (algorithm, hex) = text.split_once(':').unwrap_or((text, ""));
        let wrong = || AnyDigestError::Hex(text.to_owned());
        match algorithm {
            "sha256" => Ok(Self::Sha256(Digest::from_bytes(bytes(hex).ok_or_else(wrong)?))),
            "sha384" => Ok(Self::Sha384(bytes(hex).ok_or_else(wrong)?)),
            "sha512" => Ok(Self::Sha512(bytes(hex).ok_or_else(wrong)?)),
            other => Err(AnyDigestError::Algorithm(other.to_owned())),
        }
    }
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits = hex.as_bytes();
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            *byte = *byte << 4 | char::from(*digit).to_digit(16)? as u8;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_each_algorithm_are_read_and_checked() {
        // Of the empty text, by sha256sum, sha384sum and sha512sum.
        for text in [
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
            "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
        ] {
            let digest: AnyDigest = text.parse().unwrap();
            assert_eq!(digest.to_string(), text);
            assert_eq!(digest.of(b""), digest);
            assert_ne!(digest.of(b"x"), digest);
            let (algorithm, hex) = text.split_once(':').unwrap();
            assert_eq!(format!("{algorithm}:{}", hex.to_uppercase()).parse(), Ok(digest));
            assert!(text[..text.len() - 1].parse::<AnyDigest>().is_err());
            assert!(format!("{text}0").parse::<AnyDigest>().is_err());
            assert!(text.replace('b', "g").parse::<AnyDigest>().is_err());
        }
        for text in ["", "sha256", "sha256:", "md5:d41d8cd98f00b204e9800998ecf8427e", "latest", "SHA256:00"] {
            assert!(text.parse::<AnyDigest>().is_err(), "{text}");
        }
    }
}
