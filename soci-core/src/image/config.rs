//! Image configuration: what to run, and the digests of the unpacked layers. Holds no state.

use serde::Deserialize;

use super::Platform;
use crate::{
    budget::OverLimit,
    digest::Digest,
    json::{self, null_is_default},
};

/// Largest configuration blob that is read, bytes.
pub const MAX_CONFIG: usize = 8 << 20;

/// Why bytes are not an image configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Over [`MAX_CONFIG`].
    #[error("image config of {0} bytes is too large")]
    TooLarge(usize),
    /// Nested too deeply, or with too many values.
    #[error("image config is refused: {0}")]
    OverLimit(#[from] OverLimit),
    /// Not the expected JSON.
    #[error("image config is not valid")]
    Json(#[from] serde_json::Error),
}

/// The parts of an OCI image configuration that a runtime needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `NAME=value` entries.
    pub env: Vec<String>,
    /// First part of the command line.
    pub entrypoint: Vec<String>,
    /// Default arguments after the entrypoint.
    pub cmd: Vec<String>,
    /// Working directory; empty means `/`.
    pub working_dir: String,
    /// `user[:group]`, names or numbers; empty means root.
    pub user: String,
    /// Digest of each layer's plain tar, lowest first.
    pub diff_ids: Vec<Digest>,
    /// Platform of the image.
    pub platform: Platform,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(flatten)]
    platform: Platform,
    #[serde(default, deserialize_with = "null_is_default")]
    config: Process,
    #[serde(default, deserialize_with = "null_is_default")]
    rootfs: RootFs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Process {
    #[serde(default, deserialize_with = "null_is_default")]
    env: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    entrypoint: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    cmd: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    working_dir: String,
    #[serde(default, deserialize_with = "null_is_default")]
    user: String,
}

#[derive(Default, Deserialize)]
struct RootFs {
    #[serde(default, deserialize_with = "null_is_default")]
    diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads a configuration blob.
    ///
    /// # Errors
    /// When it is too large or not an image configuration.
    pub fn parse(raw: &[u8]) -> Result<Self, ConfigError> {
        if raw.len() > MAX_CONFIG {
            return Err(ConfigError::TooLarge(raw.len()));
        }
        json::check(raw)?;
        let fields: Fields = serde_json::from_slice(raw)?;
        Ok(Self {
            env: fields.config.env,
            entrypoint: fields.config.entrypoint,
            cmd: fields.config.cmd,
            working_dir: fields.config.working_dir,
            user: fields.config.user,
            diff_ids: fields.rootfs.diff_ids,
            platform: fields.platform,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_absent_parts_are_empty() {
        let read = ImageConfig::parse(
            br#"{"architecture":"arm64","os":"linux","variant":"v8","config":{"Env":["A=b"],"Cmd":null,"WorkingDir":"/x","Volumes":{}},
                "rootfs":{"type":"layers","diff_ids":["sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"]},"history":[]}"#,
        )
        .unwrap();
        assert_eq!(read.env, ["A=b"]);
        assert_eq!(read.working_dir, "/x");
        assert!(read.cmd.is_empty() && read.entrypoint.is_empty() && read.user.is_empty());
        assert_eq!(read.platform.to_string(), "linux/arm64/v8");
        assert_eq!(read.diff_ids.len(), 1);
        assert_eq!(ImageConfig::parse(b"{}").unwrap(), ImageConfig::default());
        assert!(ImageConfig::parse(b"[]").is_err());
    }
}
