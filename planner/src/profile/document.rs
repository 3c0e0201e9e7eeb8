//! The form in which a profile is stored: JSON, as it is or in one zstd frame. Written the same way each time.
//!
//! ```json
//! {"schema":1,"workload":"web","image":{"reference":"…","manifest":"sha256:…","layers":["sha256:…"]},
//!  "runs":[{"started_at":"…","id":"sha256:…","engine":"fuse","outcome":"ready","ready_us":812000,"ended_us":1812000}],
//!  "files":[{"path":"usr/bin/x","size":8192,"digest":"sha256:…","ranges":[[0,8192, 0,1500,0, 1,1720,0]]}]}
//! ```
//! A range is first byte, length, and for each run that needs it: its number, the microseconds from the start to the first need,
//! and how it was needed (0 asked for before the workload was ready, 1 mapped before, 2 asked for after, 3 mapped after). What is
//! read is hostile until it is checked here.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use soci_core::budget::{Budget, OverLimit};
use soci_core::digest::Digest;
use soci_core::escape::{escape, unescape};
use soci_core::media_type;

use super::{Content, File, MAX_RUNS, Need, Profile, ProfileError, Run, Source, Trust};
use crate::plan::Class;

const SCHEMA: u32 = 1;
/// Most bytes of a document, inflated.
const MAX_DOCUMENT: u64 = 256 << 20;
/// Longer ones are compressed.
const LARGE: usize = 64 << 10;
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_LEVEL: i32 = 12;
/// Inflated bytes for one that is stored, and so many for the smallest of documents.
const MAX_RATIO: u64 = 200;
const FREE: u64 = 1 << 20;
const MAX_PATH: usize = 4096;
/// No file is larger.
const MAX_SIZE: u64 = 1 << 50;

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    schema: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    workload: String,
    image: Source,
    runs: Vec<Run>,
    files: Vec<FileDocument>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FileDocument {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trust: Option<u16>,
    ranges: Vec<Vec<u64>>,
}

impl Profile {
    /// The document; compressed when it is large.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = self.to_json();
        if text.len() <= LARGE {
            return text;
        }
        zstd::bulk::compress(&text, ZSTD_LEVEL).unwrap_or(text)
    }

    /// The media type of what [`Self::to_bytes`] gives.
    pub fn media_type(bytes: &[u8]) -> &'static str {
        if bytes.starts_with(ZSTD_MAGIC) { media_type::PROFILE_ZSTD } else { media_type::PROFILE }
    }

    /// The document as it is.
    pub fn to_json(&self) -> Vec<u8> {
        let files = self.files.iter().map(|(path, file)| FileDocument {
            path: escape(path).into_owned(),
            size: file.content.map(|content| content.size),
            digest: file.content.map(|content| content.digest),
            trust: (file.trust != Trust::FULL).then_some(file.trust.0),
            ranges: ranges(&file.needs),
        });
        let document = Document {
            schema: SCHEMA,
            workload: self.workload.clone(),
            image: self.image.clone(),
            runs: self.runs.clone(),
            files: files.collect(),
        };
        serde_json::to_vec(&document).expect("numbers and text always encode")
    }

    /// Reads a document.
    ///
    /// # Errors
    /// See [`ProfileError`]. Memory is bounded by [`Budget::memory`] of the inflated length, which is itself bounded.
    pub fn read(bytes: &[u8]) -> Result<Self, ProfileError> {
        let inflated;
        let text = if bytes.starts_with(ZSTD_MAGIC) {
            inflated = inflate(bytes)?;
            &inflated
        } else {
            Budget::new("profile bytes", MAX_DOCUMENT).spend(bytes.len() as u64)?;
            bytes
        };
        let document: Document = serde_json::from_slice(text).map_err(ProfileError::Json)?;
        document.check()
    }
}

fn inflate(bytes: &[u8]) -> Result<Vec<u8>, ProfileError> {
    let most = (bytes.len() as u64).saturating_mul(MAX_RATIO).saturating_add(FREE).min(MAX_DOCUMENT);
    let mut text = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(bytes).map_err(ProfileError::Zstd)?;
    decoder.take(most + 1).read_to_end(&mut text).map_err(ProfileError::Zstd)?;
    if text.len() as u64 > most {
        return Err(OverLimit { limit: "profile bytes", most }.into());
    }
    Ok(text)
}

/// Needs that differ in their run only stand together.
fn ranges(needs: &[Need]) -> Vec<Vec<u64>> {
    let mut ranges: Vec<Vec<u64>> = Vec::new();
    for need in needs {
        let of_run = [u64::from(need.run), need.t_us, need.class as u64];
        match ranges.last_mut() {
            Some(range) if range[..2] == [need.start, need.end - need.start] => range.extend(of_run),
            _ => {
                let mut range = vec![need.start, need.end - need.start];
                range.extend(of_run);
                ranges.push(range);
            }
        }
    }
    ranges
}

impl Document {
    fn check(self) -> Result<Profile, ProfileError> {
        if self.schema != SCHEMA {
            return Err(ProfileError::Schema(self.schema));
        }
        if self.runs.len() > MAX_RUNS {
            return Err(ProfileError::Runs(self.runs.len()));
        }
        if !self.runs.is_sorted() || self.runs.windows(2).any(|two| two[0].id == two[1].id) {
            return Err(wrong("runs", "they are not in order, or one is there twice"));
        }
        let mut files: BTreeMap<Arc<[u8]>, File> = BTreeMap::new();
        for file in self.files {
            let path = unescape(&file.path).filter(|path| is_path(path));
            let path = path.ok_or_else(|| wrong(&file.path, "it is no path of a file in an image"))?;
            let content = match (file.size, file.digest) {
                (Some(size), Some(digest)) if size <= MAX_SIZE => Some(Content { size, digest }),
                (None, None) => None,
                _ => return Err(wrong(&file.path, "size and digest do not go together")),
            };
            let trust = Trust(file.trust.unwrap_or(Trust::FULL.0));
            if trust > Trust::FULL {
                return Err(wrong(&file.path, "its trust is more than 1000"));
            }
            let needs = needs(&file.ranges, self.runs.len()).map_err(|reason| wrong(&file.path, reason))?;
            if files.insert(path.into(), File { content, trust, needs }).is_some() {
                return Err(wrong(&file.path, "it is there twice"));
            }
        }
        Ok(Profile { workload: self.workload, image: self.image, runs: self.runs, files })
    }
}

fn needs(ranges: &[Vec<u64>], runs: usize) -> Result<Vec<Need>, &'static str> {
    let mut needs = Vec::new();
    for range in ranges {
        let ([start, length], of_runs) = range.split_first_chunk().ok_or("a range has too few numbers")?;
        let end = start.checked_add(*length).filter(|&end| end <= MAX_SIZE && *length > 0);
        let end = end.ok_or("a range is empty, or ends where no file is")?;
        let (of_runs, rest) = of_runs.as_chunks::<3>();
        if !rest.is_empty() || of_runs.is_empty() {
            return Err("a range has no runs, or half a one");
        }
        for &[run, t_us, class] in of_runs {
            let run = u32::try_from(run).ok().filter(|&run| (run as usize) < runs);
            let run = run.ok_or("a need is of a run that is not there")?;
            let class = match class {
                0 => Class::Start,
                1 => Class::StartGuess,
                2 => Class::Tail,
                3 => Class::TailGuess,
                _ => return Err("a need is of an unknown kind"),
            };
            needs.push(Need { start: *start, end, run, t_us, class });
        }
    }
    if needs.is_empty() {
        return Err("nothing is needed of it");
    }
    if !needs.is_sorted() {
        return Err("its needs are not in order");
    }
    let mut ends = vec![0; runs];
    for need in &needs {
        let end: &mut u64 = &mut ends[need.run as usize];
        if need.start < *end {
            return Err("a run needs a byte twice");
        }
        *end = need.end;
    }
    Ok(needs)
}

fn wrong(place: &str, reason: &'static str) -> ProfileError {
    let mut place: String = place.chars().take(200).collect();
    if place.is_empty() {
        "a file".clone_into(&mut place);
    }
    ProfileError::Wrong { place, reason }
}

/// Is it the path of a file in an image, as traces have it?
pub(super) fn is_path(path: &[u8]) -> bool {
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..");
    path.len() <= MAX_PATH && !path.contains(&0) && path.split(|&byte| byte == b'/').all(is_name)
}
