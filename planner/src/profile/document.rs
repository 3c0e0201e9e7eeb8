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

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use serde::de::{DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use soci_core::budget::{Budget, OverLimit};
use soci_core::digest::Digest;
use soci_core::escape::{escape, unescape};
use soci_core::json::Shape;
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
/// Most bytes of a name or a time.
const MAX_TEXT: usize = 4096;
/// Limits on what a parser makes of a document, counted before it does: files and runs, ranges, and numbers. An image of 100 000 files, of
/// which 10 runs need a range each, has a quarter of the last.
const OBJECTS: Budget = Budget::new("profile-files", 1 << 20);
const ARRAYS: Budget = Budget::new("profile-ranges", 1 << 22);
const VALUES: Budget = Budget::new("profile-values", 1 << 24);
/// Limit: needs of all files and runs.
pub(super) const NEEDS: Budget = Budget::new("profile-needs", 1 << 22);
/// Limit: nesting that this version knows has 4 levels; more belongs to keys of later ones.
const DEPTH: Budget = Budget::new("profile-depth", 64);

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
    ranges: Ranges,
}

/// The ranges of a file, their numbers in one row: a list for each would take three times the memory.
#[derive(Debug, Default)]
struct Ranges {
    numbers: Vec<u64>,
    /// For each range, how many numbers it and those before it have.
    ends: Vec<u32>,
}

impl Profile {
    /// The document; compressed when it is large.
    pub fn to_bytes(&self) -> Vec<u8> {
        let text = self.to_json();
        if text.len() <= LARGE {
            return text;
        }
        match zstd::bulk::compress(&text, ZSTD_LEVEL) {
            // A reader takes a frame for a bomb that becomes longer than that.
            Ok(frame) if text.len() as u64 <= longest(frame.len()) => frame,
            _ => text,
        }
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
            ranges: Ranges::of(&file.needs),
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
    /// See [`ProfileError`]. Memory is bounded by [`Budget::memory`] of the inflated length, which is itself bounded, and by what the
    /// limits of a document allow.
    pub fn read(bytes: &[u8]) -> Result<Self, ProfileError> {
        let inflated;
        let text = if bytes.starts_with(ZSTD_MAGIC) {
            inflated = inflate(bytes)?;
            &inflated
        } else {
            Budget::new("profile bytes", MAX_DOCUMENT).spend(bytes.len() as u64)?;
            bytes
        };
        let shape = Shape::of(text);
        { DEPTH }.spend(shape.depth)?;
        { OBJECTS }.spend(shape.objects)?;
        { ARRAYS }.spend(shape.arrays)?;
        { VALUES }.spend(shape.separators)?;
        let document: Document = serde_json::from_slice(text).map_err(ProfileError::Json)?;
        document.check()
    }
}

/// The longest text that a frame of so many bytes may become.
fn longest(frame: usize) -> u64 {
    (frame as u64).saturating_mul(MAX_RATIO).saturating_add(FREE).min(MAX_DOCUMENT)
}

fn inflate(bytes: &[u8]) -> Result<Vec<u8>, ProfileError> {
    let most = longest(bytes.len());
    let mut text = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(bytes).map_err(ProfileError::Zstd)?;
    decoder.take(most + 1).read_to_end(&mut text).map_err(ProfileError::Zstd)?;
    if text.len() as u64 > most {
        return Err(OverLimit { limit: "profile bytes", most }.into());
    }
    Ok(text)
}

impl Ranges {
    /// Needs that differ in their run only stand together.
    fn of(needs: &[Need]) -> Self {
        let mut ranges = Self::default();
        for together in needs.chunk_by(|one, other| one.range() == other.range()) {
            ranges.numbers.extend([together[0].start, together[0].range().len()]);
            let of_runs = together.iter().flat_map(|need| [need.run.into(), need.t_us, need.class as u64]);
            ranges.numbers.extend(of_runs);
            ranges.end();
        }
        ranges
    }

    fn end(&mut self) {
        // A document has fewer numbers.
        self.ends.push(self.numbers.len() as u32);
    }

    fn iter(&self) -> impl Iterator<Item = &[u64]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.numbers[start as usize..*end as usize])
    }
}

impl Serialize for Ranges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(RangesVisitor)
    }
}

struct RangesVisitor;

impl<'de> Visitor<'de> for RangesVisitor {
    type Value = Ranges;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of ranges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Ranges, A::Error> {
        let mut ranges = Ranges::default();
        while list.next_element_seed(Row(&mut ranges.numbers))?.is_some() {
            ranges.end();
        }
        Ok(ranges)
    }
}

/// The numbers of one range, put behind those before.
struct Row<'a>(&'a mut Vec<u64>);

impl<'de> DeserializeSeed<'de> for Row<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Row<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the numbers of a range")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<(), A::Error> {
        while let Some(number) = numbers.next_element()? {
            self.0.push(number);
        }
        Ok(())
    }
}

impl Document {
    fn check(self) -> Result<Profile, ProfileError> {
        if self.schema != SCHEMA {
            return Err(ProfileError::Schema(self.schema));
        }
        if self.runs.len() > MAX_RUNS {
            return Err(ProfileError::Runs(self.runs.len()));
        }
        let mut ids = HashSet::new();
        if !self.runs.is_sorted() || !self.runs.iter().all(|run| ids.insert(run.id)) {
            return Err(wrong("runs", "they are not in order, or one is there twice"));
        }
        let texts = self.runs.iter().flat_map(|run| [&run.started_at, &run.engine]);
        let longest = texts.chain([&self.workload, &self.image.reference]).map(String::len).max();
        if longest > Some(MAX_TEXT) {
            return Err(wrong("image and runs", "a name is too long"));
        }
        let mut all = NEEDS;
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
            all.spend(needs.len() as u64)?;
            if files.insert(path.into(), File { content, trust, needs }).is_some() {
                return Err(wrong(&file.path, "it is there twice"));
            }
        }
        Ok(Profile { workload: self.workload, image: self.image, runs: self.runs, files })
    }
}

fn needs(ranges: &Ranges, runs: usize) -> Result<Vec<Need>, &'static str> {
    // Each has three numbers beside the two of its range.
    let mut needs = Vec::with_capacity(ranges.numbers.len().saturating_sub(2 * ranges.ends.len()) / 3);
    for range in ranges.iter() {
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
