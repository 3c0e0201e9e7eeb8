//! Profiles of one run, and several profiles as one. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use soci_core::digest::{Digest, Hasher};
use soci_core::trace::{Access, Header, Tail};

use super::document::NEEDS;
use super::needs::once_for_each_run;
use super::{File, MAX_RUNS, Need, Profile, ProfileError, Run, RunEnd, Source};
use crate::plan::{FirstNeed, first_needs};

const NS_IN_US: u64 = 1000;

impl Profile {
    /// What one recording needed. A torn trace counts with what it holds. Paths that no image has are left out.
    pub fn of_run<'a>(
        workload: &str,
        header: &Header,
        tail: Option<&Tail>,
        accesses: impl IntoIterator<Item = &'a Access>,
    ) -> Self {
        let end = match tail {
            Some(Tail::Sealed(end)) => Some(end),
            _ => None,
        };
        let mut files: BTreeMap<Arc<[u8]>, File> = BTreeMap::new();
        for FirstNeed { path, range, t_ns, class } in first_needs(accesses) {
            if !range.is_empty() && super::document::is_path(&path) {
                let need = Need { start: range.start, end: range.end, run: 0, t_us: t_ns / NS_IN_US, class };
                files.entry(path).or_default().needs.push(need);
            }
        }
        for file in files.values_mut() {
            file.needs.sort_unstable();
        }
        let mut run = Run {
            started_at: header.started_at.clone(),
            id: Digest::of(b""),
            engine: header.engine.clone(),
            outcome: end.map_or(RunEnd::Torn, |end| end.outcome.into()),
            ready_us: end.and_then(|end| end.ready_ns).map(|ns| ns / NS_IN_US),
            ended_us: end.map_or(0, |end| end.ended_ns / NS_IN_US),
            dropped: end.map_or(0, |end| end.dropped),
        };
        run.id = identity(&run, &files);
        let image = Source {
            reference: header.image.clone(),
            manifest: header.manifest,
            layers: header.layers.iter().map(|layer| layer.digest).collect(),
        };
        Self { workload: workload.to_owned(), image, runs: vec![run], files }
    }

    /// All runs of these profiles. A run that several of them have counts once. The image is that of the latest run.
    ///
    /// # Errors
    /// [`ProfileError::Workloads`], when they are of different workloads; [`ProfileError::Runs`] and [`ProfileError::Limit`], when the
    /// result would be more than is read.
    pub fn merge(profiles: impl IntoIterator<Item = Self>) -> Result<Option<Self>, ProfileError> {
        let profiles: Vec<Self> = profiles.into_iter().collect();
        let Some(first) = profiles.first() else { return Ok(None) };
        if let Some(other) = profiles.iter().find(|profile| profile.workload != first.workload) {
            let mut names = [first.workload.clone(), other.workload.clone()];
            names.sort_unstable();
            let [a, b] = names;
            return Err(ProfileError::Workloads(a, b));
        }
        let mut runs: Vec<Run> = profiles.iter().flat_map(|profile| profile.runs.iter().cloned()).collect();
        runs.sort_unstable();
        let mut ids = HashSet::new();
        runs.retain(|run| ids.insert(run.id));
        if runs.len() > MAX_RUNS {
            return Err(ProfileError::Runs(runs.len()));
        }
        let numbers: HashMap<Digest, u32> =
            runs.iter().zip(0..).map(|(run, number)| (run.id, number)).collect();
        // The latest image; of two with runs of one moment, whichever: but always the same.
        let image = profiles.iter().map(|profile| (profile.runs.last(), &profile.image)).max();
        let image = image.map(|(_, image)| image.clone()).unwrap_or_default();
        let workload = first.workload.clone();
        let mut files: BTreeMap<Arc<[u8]>, File> = BTreeMap::new();
        for profile in profiles {
            let number = |run: u32| numbers[&profile.runs[run as usize].id];
            let is_latest = profile.image == image;
            for (path, file) in profile.files {
                let merged = files.entry(path).or_default();
                merged.needs.extend(file.needs.iter().map(|need| Need { run: number(need.run), ..*need }));
                // What the latest image has under this path; of several that speak of it, the smallest.
                if is_latest && file.content.is_some() {
                    let known = merged.content.min(file.content).or(file.content);
                    merged.content = known;
                }
                merged.trust = merged.trust.min(file.trust);
            }
        }
        let mut all = NEEDS;
        for file in files.values_mut() {
            file.needs.sort_unstable();
            file.needs.dedup();
            all.spend(file.needs.len() as u64)?;
            // One run may be there as it was and as it was rebased.
            file.needs = once_for_each_run(std::mem::take(&mut file.needs));
        }
        Ok(Some(Self { workload, image, runs, files }))
    }

    /// The same without all but the latest `count` runs.
    #[must_use]
    pub fn latest_runs(mut self, count: usize) -> Self {
        let gone = self.runs.len().saturating_sub(count);
        self.runs.drain(..gone);
        let gone = gone as u32;
        for file in self.files.values_mut() {
            file.needs.retain(|need| need.run >= gone);
            for need in &mut file.needs {
                need.run -= gone;
            }
        }
        self.files.retain(|_, file| !file.needs.is_empty());
        self
    }
}

/// The digest of what a run needed.
fn identity(run: &Run, files: &BTreeMap<Arc<[u8]>, File>) -> Digest {
    let mut hasher = Hasher::new();
    let end = [run.ready_us.map_or(0, |us| us + 1), run.ended_us, run.dropped, run.outcome as u64];
    for text in [&run.started_at, &run.engine] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    for number in end {
        hasher.update(&number.to_le_bytes());
    }
    for (path, file) in files {
        hasher.update(&(path.len() as u64).to_le_bytes());
        hasher.update(path);
        hasher.update(&(file.needs.len() as u64).to_le_bytes());
        for need in &file.needs {
            for number in [need.start, need.end, need.t_us, need.class as u64] {
                hasher.update(&number.to_le_bytes());
            }
        }
    }
    hasher.finish()
}
