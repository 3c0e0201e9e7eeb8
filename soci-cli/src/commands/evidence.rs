//! What a workload needs, as its traces and profiles say: read, put together, and applied to an image. Holds no state.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use planner::plan::{LeftOut, Paths};
use planner::profile::{Content, Coverages, Fate, Inventory, Profile, ProfileError, Source, Threshold};
use planner::report::Flaw;
use planner::report::words::printable;
use soci_core::{
    image::Image,
    index::{self, Event, FileDigest},
    prefetch::Plan,
    trace::{Access, Tail, TraceReader},
};
use tokio::runtime::Handle;

use crate::help::heading::PLANNING;
use crate::hint::Hinted;

/// The flags that name what a workload needs.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "evidence", multiple = true)]
pub(crate) struct Evidence {
    /// A recording of the workload: prefetch what it read, in the order in which it needed it. May be repeated, for several
    /// recordings of one workload.
    #[arg(long, help_heading = PLANNING, value_name = "FILE")]
    pub(crate) trace: Vec<PathBuf>,
    /// A profile of the workload (see soci profile). One that was made of another build is rebased onto the image. May be
    /// repeated, and go with traces.
    #[arg(long, help_heading = PLANNING, value_name = "FILE")]
    pub(crate) profile: Vec<PathBuf>,
    /// Which bytes count when there are several recordings: any (what any of them has needed), or the probability, 0 to 1, with
    /// which the next start at least needs them. The default is any for fewer than five, and 0.1 from then on.
    #[arg(long, help_heading = PLANNING, value_name = "RULE", value_parser = threshold)]
    threshold: Option<Rule>,
    /// Take a trace that may lack something: accesses were lost, its end is missing, or the page cache was warm.
    #[arg(long, help_heading = PLANNING, requires = "trace")]
    allow_incomplete: bool,
}

/// `--threshold`.
#[derive(Debug, Clone, Copy)]
struct Rule(Threshold);

fn threshold(text: &str) -> Result<Rule, String> {
    if text == "any" {
        return Ok(Rule(Threshold::Any));
    }
    let bound = text.parse().ok().filter(|bound| (0.0..=1.0).contains(bound));
    bound
        .map(|bound| Rule(Threshold::Bound(bound)))
        .ok_or_else(|| format!("{text:?} is neither any nor 0 to 1"))
}

/// What was read.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    what: What,
    threshold: Threshold,
    paths: Paths,
}

/// What to fetch ahead for one image, and what is left out.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    /// Because few runs have needed it.
    pub(crate) rare: LeftOut,
    /// By the user's globs.
    pub(crate) excluded: LeftOut,
}

#[derive(Debug, Clone)]
enum What {
    /// One recording, as it is.
    Trace {
        plan: Plan,
        path: PathBuf,
        profile: Box<Profile>,
    },
    Profile(Profile),
}

impl Evidence {
    /// A profile.
    pub(super) fn of_profile(path: PathBuf) -> Self {
        Self { profile: vec![path], ..Self::default() }
    }

    /// Recordings.
    pub(super) fn of_traces(trace: Vec<PathBuf>, allow_incomplete: bool) -> Self {
        Self { trace, allow_incomplete, ..Self::default() }
    }

    /// Is there any?
    pub(crate) fn is_given(&self) -> bool {
        !self.trace.is_empty() || !self.profile.is_empty()
    }

    /// Reads all of it. A trace that may lack something is refused, or with `--allow-incomplete` warned about.
    pub(crate) fn read(&self, workload: &str) -> Result<Option<Known>> {
        let threshold = self.threshold.map_or_else(Threshold::default, |rule| rule.0);
        if self.threshold.is_some() && !self.is_given() {
            let hint = "give it a --trace or a --profile";
            return Err(Hinted::new("--threshold chooses among recordings, and there is none", hint).into());
        }
        let what = match (self.trace.as_slice(), self.profile.as_slice()) {
            ([], []) => return Ok(None),
            ([path], []) => {
                let (accesses, reader) = accesses(path, self.allow_incomplete)?;
                let profile = Profile::of_run(workload, reader.header(), reader.tail(), &accesses);
                let plan = planner::plan::plan(&accesses);
                What::Trace { plan, path: path.clone(), profile: Box::new(profile) }
            }
            _ => {
                let (mut profile, name) = (self.merged(Some(workload))?, workload.to_owned());
                profile.workload = name;
                What::Profile(profile)
            }
        };
        Ok(Some(Known { what, threshold, paths: Paths::default() }))
    }

    /// All of it as one profile. With `workload`, of that one, whatever the profiles say.
    pub(crate) fn merged(&self, workload: Option<&str>) -> Result<Profile> {
        let mut profiles = Vec::new();
        for path in &self.profile {
            let mut profile = read_profile(path)?;
            if let Some(workload) = workload {
                workload.clone_into(&mut profile.workload);
            }
            profiles.push(profile);
        }
        for path in &self.trace {
            let (accesses, reader) = accesses(path, self.allow_incomplete)?;
            let name = match (workload, profiles.first()) {
                (Some(name), _) => name.to_owned(),
                (None, Some(first)) => first.workload.clone(),
                (None, None) => String::new(),
            };
            let tail: Option<&Tail> = reader.tail();
            profiles.push(Profile::of_run(&name, reader.header(), tail, &accesses));
        }
        let merged = Profile::merge(profiles).map_err(with_hint)?;
        merged.context("no trace and no profile was given")
    }
}

impl Known {
    /// The same, of these paths alone.
    pub(crate) fn within(self, paths: Paths) -> Self {
        Self { paths, ..self }
    }

    /// How to plan for an image when its files are known, where that is all that is missing: a profile of another build, of all
    /// paths. It is rebased then.
    pub(crate) fn of_files(
        &self,
        image: &Image,
    ) -> Option<impl Fn(Vec<FileDigest>) -> Planned + Send + Sync + use<>> {
        let What::Profile(profile) = &self.what else { return None };
        if profile.image.manifest == Some(image.manifest.digest) || !self.paths.is_everything() {
            return None;
        }
        let (profile, threshold, to) = (profile.clone(), self.threshold, source(image));
        Some(move |files| {
            let (rebased, coverages) = profile.rebase(to.clone(), &listed(files));
            say!("note: the profile is of another build: {}", words(&coverages));
            let (plan, rare) = planned(&rebased, threshold);
            Planned { plan, rare, excluded: LeftOut::default() }
        })
    }

    /// What to fetch ahead for an image. A profile of another build is rebased: that reads the layers.
    ///
    /// # Errors
    /// When the layers cannot be read, or nothing is left to be fetched ahead.
    pub(crate) fn plan_for(
        &self,
        image: &Image,
        runtime: &Handle,
        tell: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<Planned> {
        let (plan, rare) = match &self.what {
            What::Trace { plan, path, .. } => {
                warn_about_other_image(path, image)?;
                (plan.clone(), LeftOut::default())
            }
            What::Profile(_) => planned(&*self.profile_for(image, runtime, tell)?, self.threshold),
        };
        let (plan, excluded) = self.paths.narrow(plan);
        if plan.items.is_empty() && excluded.files > 0 {
            let message =
                format!("--include and --exclude leave none of {} files that are needed", excluded.files);
            return Err(
                Hinted::new(message, "soci report TRACE and soci profile info FILE show the files").into()
            );
        }
        Ok(Planned { plan, rare, excluded })
    }

    /// The profile of the workload in an image. One of another build is rebased: that reads the layers.
    pub(crate) fn profile_for(
        &self,
        image: &Image,
        runtime: &Handle,
        tell: &(dyn Fn(Event<'_>) + Sync),
    ) -> Result<Cow<'_, Profile>> {
        let profile = match &self.what {
            What::Trace { profile, .. } => return Ok(Cow::Borrowed(profile)),
            What::Profile(profile) => profile,
        };
        if profile.image.manifest == Some(image.manifest.digest) {
            return Ok(Cow::Borrowed(profile));
        }
        let files = inventory(image, runtime, tell)?;
        let (profile, coverages) = profile.rebase(source(image), &files);
        say!("note: the profile is of another build: {}", words(&coverages));
        Ok(Cow::Owned(profile))
    }
}

/// What of a profile is to be fetched ahead; says what is not.
fn planned(profile: &Profile, threshold: Threshold) -> (Plan, LeftOut) {
    let planned = profile.plan(threshold);
    if planned.left_out != LeftOut::default() {
        let LeftOut { files, bytes } = planned.left_out;
        let bytes = indicatif::HumanBytes(bytes);
        say!(
            "note: {bytes} that few of {} runs have needed are left out, and {files} files",
            profile.runs().len()
        );
    }
    (planned.plan, planned.left_out)
}

/// Reads a profile.
pub(crate) fn read_profile(path: &Path) -> Result<Profile> {
    let what = || format!("cannot read profile {}", path.display());
    let bytes = fs::read(path).with_context(what)?;
    Profile::read(&bytes).map_err(with_hint).with_context(what)
}

/// The files of an image, by content.
pub(crate) fn inventory(
    image: &Image,
    runtime: &Handle,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Inventory> {
    Ok(listed(files(image, runtime, tell)?))
}

fn files(image: &Image, runtime: &Handle, tell: &(dyn Fn(Event<'_>) + Sync)) -> Result<Vec<FileDigest>> {
    index::file_digests(image, runtime, tell).context("cannot read the files of the image")
}

fn listed(files: Vec<FileDigest>) -> Inventory {
    Inventory::new(
        files
            .into_iter()
            .map(|file| (Arc::from(file.path), Content { size: file.size, digest: file.digest })),
    )
}

/// The image, as profiles name one.
pub(crate) fn source(image: &Image) -> Source {
    Source {
        reference: image.reference.clone(),
        manifest: Some(image.manifest.digest),
        layers: image.layers().iter().map(|layer| layer.digest).collect(),
    }
}

/// How much of a profile applies.
pub(crate) fn words(coverages: &Coverages) -> String {
    let part = |(fate, amount): (&Fate, &planner::profile::Amount)| {
        let fate = match fate {
            Fate::Kept => "kept",
            Fate::Moved => "moved",
            Fate::Changed => "changed",
            Fate::Gone => "gone",
        };
        format!("{} files ({}) {fate}", amount.files, indicatif::HumanBytes(amount.bytes))
    };
    let parts: Vec<String> = coverages.by_fate.iter().map(part).collect();
    let share = coverages.share() * 100.0;
    format!("{}; {share:.1} % of what comes before readiness is known to be right", parts.join(", "))
}

fn with_hint(error: ProfileError) -> anyhow::Error {
    match error.hint() {
        Some(hint) => {
            let message = soci_core::error::chain(&error);
            Hinted::new(message, hint).into()
        }
        None => error.into(),
    }
}

/// Says when a trace is of another image.
fn warn_about_other_image(path: &Path, image: &Image) -> Result<()> {
    let name = printable(path.as_os_str().as_encoded_bytes());
    match TraceReader::open(path)?.header().manifest {
        None => say!("note: trace {name} is of a directory: its paths are looked up in the image"),
        Some(recorded) if recorded != image.manifest.digest => say!(
            "warning: trace {name} was recorded on image manifest {recorded}, this one is {}: paths that differ are \
             left out",
            image.manifest.digest
        ),
        Some(_) => {}
    }
    Ok(())
}

/// The accesses of a trace, and its reader at the end.
fn accesses(path: &Path, allow_incomplete: bool) -> Result<(Vec<Access>, TraceReader)> {
    let read = || format!("cannot read trace {}", path.display());
    let mut reader = TraceReader::open(path).with_context(read)?;
    let accesses = reader.by_ref().collect::<Result<Vec<_>, _>>().with_context(read)?;
    for flaw in Flaw::of(reader.header(), reader.tail()) {
        let message = format!("trace {} is incomplete: {flaw}", path.display());
        if !allow_incomplete {
            return Err(
                Hinted::new(message, "record again, or take it as it is with --allow-incomplete").into()
            );
        }
        say!("warning: {message}");
    }
    if accesses.is_empty() {
        return Err(Hinted::new(
            format!("trace {} has no accesses", path.display()),
            "record the workload again",
        )
        .into());
    }
    Ok((accesses, reader))
}
