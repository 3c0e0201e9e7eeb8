//! `[pack]`, ours: fine indexes and working-set packs beside an image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use soci_core::digest::Digest;

use super::{ConfigError, default_if_zero, milliseconds, size};
use crate::choice::{Chooser, Program, Rule};

/// Which of an image's companions are used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pack {
    /// Use packs.
    pub enable: bool,
    /// Use fine indexes, with or without a pack.
    pub fine: bool,
    /// Bytes, as the registry has them, above which a pack is not used.
    #[serde(deserialize_with = "size::bytes")]
    pub max_bytes: i64,
    /// Use only the companions in [`Pack::verified`].
    pub require_verified: bool,
    /// Digests of the manifests of companions that somebody has looked at.
    pub verified: BTreeSet<Digest>,
    /// Name of the workload of starts of which nothing else says one.
    pub workload: String,
    /// Absolute path of a program that names the workload of a start. Empty: none.
    pub chooser: String,
    /// Milliseconds that it may take.
    pub chooser_timeout_msec: i64,
    /// Pull an image whole when its index, or the pack of the start, advises it.
    pub advice: bool,
    /// Give the kernel what a pack brings before it asks.
    pub page_cache: bool,
    /// What this node is, for packs with selectors.
    pub attributes: BTreeMap<String, String>,
    /// Which workload a start is for, the first that matches.
    #[serde(rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<PackRule>,
}

/// Starts whose workload is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PackRule {
    /// The workload whose pack they get.
    pub workload: String,
    /// Names of images, with `*` and `?`; empty: all.
    pub image: String,
    /// Namespaces of containerd, with `*` and `?`; empty: all.
    pub namespace: String,
    /// Labels that the snapshot must have, their values with `*` and `?`.
    pub labels: BTreeMap<String, String>,
}

impl Default for Pack {
    /// On: where an image has a companion, its publisher wants it used. The limit is far above what starts need (pages
    /// of the largest images measured: 70 MB) and far below what a disk holds.
    fn default() -> Self {
        Self {
            enable: true,
            fine: true,
            max_bytes: 1 << 30,
            require_verified: false,
            verified: BTreeSet::new(),
            workload: String::new(),
            chooser: String::new(),
            chooser_timeout_msec: 1000,
            advice: true,
            page_cache: true,
            attributes: BTreeMap::new(),
            rules: Vec::new(),
        }
    }
}

impl Pack {
    pub(super) fn fill(&mut self) -> Result<(), ConfigError> {
        default_if_zero(&mut self.max_bytes, Self::default().max_bytes);
        if self.max_bytes < 0 {
            return Err(ConfigError::value("pack.max_bytes", "must not be negative"));
        }
        default_if_zero(&mut self.chooser_timeout_msec, Self::default().chooser_timeout_msec);
        if self.chooser_timeout_msec < 0 {
            return Err(ConfigError::value("pack.chooser_timeout_msec", "must not be negative"));
        }
        if !self.chooser.is_empty() && !self.chooser.starts_with('/') {
            return Err(ConfigError::value("pack.chooser", "must be an absolute path"));
        }
        self.choosing().map(drop)
    }

    fn choosing(&self) -> Result<Vec<Rule>, ConfigError> {
        let rule = |rule: &PackRule| {
            if rule.workload.is_empty() {
                return Err(ConfigError::value("pack.rule", "a rule must name a workload"));
            }
            let made = Rule::new(&rule.image, &rule.namespace, &rule.labels, rule.workload.clone());
            made.map_err(|error| ConfigError::value("pack.rule", error.to_string()))
        };
        self.rules.iter().map(rule).collect()
    }

    /// Which workload a start is for.
    ///
    /// # Errors
    /// When a rule cannot be used.
    pub fn chooser(&self) -> Result<Arc<Chooser>, ConfigError> {
        let limit = milliseconds(self.chooser_timeout_msec);
        let program = (!self.chooser.is_empty()).then(|| Program::new(PathBuf::from(&self.chooser), limit));
        Ok(Chooser::new(self.choosing()?, program, self.workload.clone()))
    }

    /// Bytes above which a pack is not used.
    pub fn limit(&self) -> u64 {
        self.max_bytes.unsigned_abs()
    }
}
