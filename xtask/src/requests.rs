//! What a registry was asked for, by its access log: each request by what the asked content is.
//!
//! A [`Catalogue`] knows the kinds of an image's blobs, and of everything that was made beside the image, from the manifests
//! in their OCI layouts: what a manifest lists is what its media type says.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use soci_core::media_type;

/// Larger blobs are no manifests.
const LARGEST_MANIFEST: u64 = 4 << 20;

/// Requests of each kind.
pub(crate) type Counts = BTreeMap<Kind, u64>;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The version endpoint; a token would be asked for here.
    Ping,
    /// The image's manifest, by tag or digest.
    Manifest,
    /// The image's configuration.
    Config,
    /// Lists of referrers, their fallback tag, and the SOCI index.
    Index,
    /// Manifest of a fine index or a pack.
    Companion,
    /// A zTOC.
    Ztoc,
    /// A prefetch artifact.
    Prefetch,
    /// Tables of a fine index.
    Tables,
    /// Windows of a fine index.
    Windows,
    /// A pack's head or blocks.
    Pack,
    /// A layer, or a part of it.
    Layer,
    /// Anything else.
    Other,
}

impl Kind {
    /// Whether every pull that looks for an index asks for this: it says nothing about how an image is then loaded.
    fn is_fixed(self) -> bool {
        matches!(self, Self::Ping | Self::Manifest | Self::Config | Self::Index)
    }
}

/// Requests that are not the same for every way of loading.
pub(crate) fn beyond_fixed(counts: &Counts) -> u64 {
    counts.iter().filter(|(kind, _)| !kind.is_fixed()).map(|(_, count)| count).sum()
}

/// Kinds of content by digest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalogue {
    kinds: HashMap<String, Kind>,
}

impl Catalogue {
    /// Of everything in these OCI layouts.
    pub(crate) fn of(layouts: &[impl AsRef<Path>]) -> Result<Self> {
        let mut catalogue = Self::default();
        for layout in layouts {
            let blobs = layout.as_ref().join("blobs/sha256");
            for blob in fs::read_dir(&blobs).with_context(|| format!("cannot list {}", blobs.display()))? {
                let blob = blob?;
                if blob.metadata()?.len() > LARGEST_MANIFEST {
                    continue;
                }
                // What is no manifest is no JSON object with layers.
                if let Ok(manifest) = serde_json::from_slice::<Value>(&fs::read(blob.path())?) {
                    catalogue.add(&format!("sha256:{}", blob.file_name().to_string_lossy()), &manifest);
                }
            }
        }
        Ok(catalogue)
    }

    fn add(&mut self, digest: &str, manifest: &Value) {
        let Some(listed) = manifest["layers"].as_array() else { return };
        let artifact = manifest["artifactType"].as_str().unwrap_or_default();
        let config = manifest["config"]["mediaType"].as_str().unwrap_or_default();
        let (own, below): (Kind, fn(&str) -> Kind) = match (artifact, config) {
            (media_type::FINE_INDEX | media_type::PACK, _) => (Kind::Companion, beside_image),
            (_, media_type::SOCI_INDEX_V1 | media_type::SOCI_INDEX_V2)
            | (media_type::SOCI_INDEX_V1 | media_type::SOCI_INDEX_V2, _) => (Kind::Index, beside_image),
            _ => (Kind::Manifest, |_| Kind::Layer),
        };
        self.kinds.insert(digest.to_owned(), own);
        for entry in listed {
            if let Some(digest) = entry["digest"].as_str() {
                let kind = below(entry["mediaType"].as_str().unwrap_or_default());
                self.kinds.insert(digest.to_owned(), kind);
            }
        }
        // The config of the others is the two bytes that stand for nothing.
        if own == Kind::Manifest
            && let Some(digest) = manifest["config"]["digest"].as_str()
        {
            self.kinds.insert(digest.to_owned(), Kind::Config);
        }
    }

    /// Counts the requests of an access log; a last line that is not whole does not count.
    pub(crate) fn count(&self, log: &str) -> Counts {
        let mut counts = Counts::new();
        for target in log.split_inclusive('\n').filter_map(target) {
            *counts.entry(self.kind(target)).or_default() += 1;
        }
        counts
    }

    fn kind(&self, target: &str) -> Kind {
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        if path.trim_end_matches('/') == "/v2" {
            return Kind::Ping;
        }
        let Some((place, name)) = path.rsplit_once('/') else { return Kind::Other };
        let known = self.kinds.get(name).copied();
        match place.rsplit_once('/').map_or(place, |(_, last)| last) {
            "referrers" => Kind::Index,
            "manifests" if name.starts_with("sha256-") => Kind::Index,
            "manifests" if !name.contains(':') => Kind::Manifest,
            "manifests" | "blobs" => known.unwrap_or(Kind::Other),
            _ => Kind::Other,
        }
    }
}

fn beside_image(media_type: &str) -> Kind {
    match media_type {
        media_type::ZTOC | media_type::ZTOC_ZSTD => Kind::Ztoc,
        media_type::PREFETCH => Kind::Prefetch,
        media_type::FINE_TABLES => Kind::Tables,
        media_type::FINE_WINDOWS => Kind::Windows,
        media_type::PACK_BLOCKS => Kind::Pack,
        _ => Kind::Other,
    }
}

/// What a whole line of the access log asks for; other lines of the log have no quoted request.
fn target(line: &str) -> Option<&str> {
    let (_, request) = line.strip_suffix('\n')?.split_once('"')?;
    let (request, _) = request.split_once('"')?;
    let (request, protocol) = request.rsplit_once(' ')?;
    protocol.starts_with("HTTP/1.").then(|| request.split_once(' ').map(|(_, target)| target))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(byte: u8) -> String {
        format!("{byte:02x}").repeat(32)
    }

    fn line(method: &str, target: &str) -> String {
        format!(
            "198.18.0.1 - - [25/Nov/2026:12:51:19 +0000] \"{method} {target} HTTP/1.1\" 206 4109 \"\" \"x/1\"\n"
        )
    }

    /// A manifest: byte of its digest, artifact type, media type of the config, what it lists.
    type Listed<'a> = (u8, Option<&'a str>, &'a str, &'a [(u8, &'a str)]);

    /// A layout with these manifests.
    fn layout(manifests: &[Listed<'_>]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let blobs = dir.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(hex(0xff)), b"\x1f\x8b no JSON").unwrap();
        for (digest, artifact, config, layers) in manifests {
            let layers: Vec<Value> = layers
                .iter()
                .map(|(digest, kind)| serde_json::json!({"digest": format!("sha256:{}", hex(*digest)), "mediaType": kind}))
                .collect();
            let mut manifest = serde_json::json!({
                "config": {"mediaType": config, "digest": format!("sha256:{}", hex(0xc0))}, "layers": layers,
            });
            if let Some(artifact) = artifact {
                manifest["artifactType"] = (*artifact).into();
            }
            fs::write(blobs.join(hex(*digest)), manifest.to_string()).unwrap();
        }
        dir
    }

    #[test]
    fn requests_are_told_apart_by_what_the_manifests_say() {
        let image = layout(&[(1, None, media_type::OCI_CONFIG, &[(2, media_type::OCI_LAYER_GZIP)])]);
        let store = layout(&[
            (
                3,
                None,
                media_type::SOCI_INDEX_V1,
                &[(4, media_type::ZTOC), (5, media_type::PREFETCH), (6, media_type::ZTOC_ZSTD)],
            ),
            (
                7,
                Some(media_type::FINE_INDEX),
                media_type::OCI_EMPTY,
                &[(8, media_type::FINE_TABLES), (9, media_type::FINE_WINDOWS)],
            ),
            (10, Some(media_type::PACK), media_type::OCI_EMPTY, &[(11, media_type::PACK_BLOCKS)]),
        ]);
        let catalogue = Catalogue::of(&[image.path(), store.path()]).unwrap();
        let manifest = |digest| format!("/v2/a/b/manifests/sha256:{}", hex(digest));
        let blob = |digest| format!("/v2/a/b/blobs/sha256:{}", hex(digest));
        for (target, kind) in [
            ("/v2/".to_owned(), Kind::Ping),
            ("/v2/a/b/manifests/latest".to_owned(), Kind::Manifest),
            (manifest(1), Kind::Manifest),
            (blob(0xc0), Kind::Config),
            (format!("/v2/a/b/referrers/sha256:{}?artifactType=x%2Fy", hex(1)), Kind::Index),
            (format!("/v2/a/b/manifests/sha256-{}", hex(1)), Kind::Index),
            (manifest(3), Kind::Index),
            (manifest(7), Kind::Companion),
            (manifest(10), Kind::Companion),
            (blob(2), Kind::Layer),
            (blob(4), Kind::Ztoc),
            (blob(5), Kind::Prefetch),
            (blob(6), Kind::Ztoc),
            (blob(8), Kind::Tables),
            (blob(9), Kind::Windows),
            (blob(11), Kind::Pack),
            (blob(0xff), Kind::Other),
            ("/metrics".to_owned(), Kind::Other),
        ] {
            assert_eq!(catalogue.count(&line("GET", &target)), Counts::from([(kind, 1)]), "{target}");
        }
    }

    #[test]
    fn only_whole_lines_of_requests_count() {
        let catalogue = Catalogue::default();
        let half = line("GET", "/v2/");
        let log = [
            "time=\"2026-11-25\" level=info msg=\"listening\"\n",
            &line("GET", "/v2/"),
            &line("HEAD", "/v2/a/manifests/1"),
            half.trim_end(),
        ]
        .concat();
        let counts = catalogue.count(&log);
        assert_eq!(counts, Counts::from([(Kind::Ping, 1), (Kind::Manifest, 1)]));
        assert_eq!(beyond_fixed(&counts), 0);
    }

    #[test]
    fn what_every_pull_asks_for_is_left_out() {
        let counts =
            Counts::from([(Kind::Config, 2), (Kind::Index, 3), (Kind::Companion, 1), (Kind::Pack, 4)]);
        assert_eq!(beyond_fixed(&counts), 5);
    }
}
