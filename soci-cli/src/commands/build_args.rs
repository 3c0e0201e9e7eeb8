//! The flags that say how an index is built, for `create` and `convert`, and what is said while it is built. Holds no
//! state.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use soci_core::{
    image::Image,
    index::{DEFAULT_MIN_LAYER_SIZE, Event, IndexVersion, PlanSource, Settings, TraceSettings},
    pack::{Budget, PackSettings},
    prefetch::{Plan, Selection},
    ztoc::{DEFAULT_FINE_SPAN_SIZE, DEFAULT_SPAN_SIZE},
};
use tokio::runtime::Handle;

use super::evidence::{Evidence, Known};
use super::globs::Globs;
use super::made::{Built, Heard};
use super::modelled::Open;
use super::pack_args::{self, PackArgs};
use super::told;
use crate::{
    help::heading::{OUTPUT, PLANNING},
    hint::Hinted,
    output::progress::Progress,
    size, usage,
};

/// How an index is built.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {
    /// Size of a span, uncompressed; auto, with a --trace or a --profile: of 1, 2, 4 and 8 MiB the size with which a start is
    /// predicted to be fastest. Reads the layers once more.
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = span_size, allow_negative_numbers = true)]
    span_size: SpanSize,
    /// Tell nodes to pull the image whole when that is predicted to be faster than to serve it in parts. Reads the layers once
    /// more.
    #[arg(long, help_heading = PLANNING, requires = "evidence")]
    advise: bool,
    /// Build no zTOC for layers smaller than this, compressed; they are fetched whole.
    /// [default: 10MiB; 1MiB with --trace and --profile]
    #[arg(long, value_name = "SIZE", value_parser = size::signed, allow_negative_numbers = true)]
    min_layer_size: Option<i64>,
    /// xattr: mark layers that need no extended attributes. May be repeated.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    optimizations: Vec<String>,
    /// Build zTOCs anew even if they are known.
    #[arg(long, short = 'f')]
    force: bool,
    /// A file to prefetch, a directory (all files below it), or a pattern with *, **, ? and [a-z]. May be repeated.
    #[arg(long, help_heading = PLANNING, value_name = "PATH", value_delimiter = ',', conflicts_with = "evidence")]
    prefetch_file: Vec<String>,
    /// A file with a JSON array of paths to prefetch.
    #[arg(long, help_heading = PLANNING, value_name = "FILE", conflicts_with = "evidence")]
    prefetch_files_json: Option<String>,
    /// How paths to prefetch are looked up: in the merged image, following links and whiteouts; or as upstream's tool
    /// does, by the names in the tars of layers with a zTOC.
    #[arg(long, help_heading = PLANNING, value_name = "RULE", default_value = "image")]
    prefetch_compat: PrefetchCompat,
    #[command(flatten)]
    evidence: Evidence,
    #[command(flatten)]
    globs: Globs,
    /// Where spans begin: by upstream's rule, or also at the edges of what the workload needs.
    /// [default: upstream; trace with --trace and --profile]
    #[arg(long, help_heading = PLANNING, value_name = "LAYOUT", requires_if("trace", "evidence"))]
    span_layout: Option<SpanLayout>,
    /// With --span-layout trace: needed ranges that are at most this far apart share a span. (Each range costs two
    /// windows of 32 KiB in the zTOC, which is what a gap of 256 KiB costs when it compresses to a quarter.)
    #[arg(long, help_heading = PLANNING, value_name = "SIZE", default_value = "256KiB", value_parser = size::parse)]
    span_gap: u64,
    /// Largest size of all spans that the prefetch artifacts name, compressed, in bytes (20MB, 16MiB) or as a share of the image
    /// as it is stored (25%): what is needed last is left out.
    #[arg(long, help_heading = PLANNING, value_name = "SIZE", requires = "evidence", value_parser = pack_args::budget)]
    prefetch_budget: Option<Budget>,
    #[command(flatten)]
    pack: PackArgs,
    /// Also build a fine index, with small spans, so that a start downloads fewer unneeded bytes. Reads layers again that
    /// have a zTOC already, and covers layers below --min-layer-size as well. The default with --trace and --profile.
    #[arg(long, help_heading = PLANNING)]
    fine: bool,
    /// Build no fine index.
    #[arg(long, help_heading = PLANNING, conflicts_with = "fine")]
    no_fine: bool,
    /// Size of a span of the fine index, uncompressed; 16KiB to 64MiB. [default: 256KiB]
    #[arg(long, help_heading = PLANNING, value_name = "SIZE", conflicts_with = "no_fine", value_parser = fine_span)]
    fine_span_size: Option<u64>,
    /// Say what would be made, and keep nothing: all of it is made in a temporary directory, which is removed.
    #[arg(long, help_heading = OUTPUT)]
    pub(super) dry_run: bool,
    /// Print only the digest of what was made; no progress, no notes.
    #[arg(long, short = 'q', help_heading = OUTPUT)]
    quiet: bool,
    /// Print what was made as JSON; no progress.
    #[arg(long, help_heading = OUTPUT, conflicts_with = "quiet")]
    pub(crate) json: bool,
    /// Another command says what was made.
    #[arg(skip)]
    bars_alone: bool,
}

/// `--span-size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SpanSize {
    Bytes(i64),
    Auto,
}

fn span_size(text: &str) -> Result<SpanSize, String> {
    if text == "auto" { Ok(SpanSize::Auto) } else { size::signed(text).map(SpanSize::Bytes) }
}

fn fine_span(text: &str) -> Result<u64, String> {
    let size = size::parse(text)?;
    FINE_SPANS.contains(&size).then_some(size).ok_or_else(|| format!("{text} is not 16KiB to 64MiB"))
}

/// What a zTOC of a layer costs a start is little beside what it saves one of which it is known what it needs.
const MIN_LAYER_SIZE_WHEN_KNOWN: u64 = 1 << 20;

/// Smaller fine spans have more in windows and digests than in bytes; larger ones are no finer than others.
const FINE_SPANS: std::ops::RangeInclusive<u64> = 16 << 10..=64 << 20;

/// `--span-layout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SpanLayout {
    /// Every --span-size bytes.
    Upstream,
    /// And at both ends of each needed range.
    Trace,
}

/// `--prefetch-compat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PrefetchCompat {
    /// As a container sees the image.
    Image,
    /// As upstream's tool does, its faults included.
    Upstream,
}

impl BuildArgs {
    /// Says what became of a layer.
    pub(crate) fn tell(&self, event: Event<'_>, progress: &Progress) {
        // With both, layers without a zTOC are served in parts as well: nothing is fetched whole.
        let in_parts = self.has_fine() && self.pack.is_wanted(self.evidence.is_given());
        if !(in_parts && matches!(event, Event::OutsideSpans(_))) {
            told::tell(event, progress);
        }
    }

    /// Whether a fine index is to be built.
    fn has_fine(&self) -> bool {
        !self.no_fine && (self.fine || self.evidence.is_given())
    }

    /// Whether only digests are wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Where lines and bars go.
    pub(crate) fn progress(&self) -> Progress {
        if self.bars_alone { Progress::bars_alone() } else { Progress::new(self.quiet || self.json) }
    }

    /// What to build.
    pub(crate) fn settings(&self, version: IndexVersion) -> Result<Settings> {
        let known = self.evidence.is_given();
        let span_size = match self.span_size {
            SpanSize::Bytes(bytes) => u64::try_from(bytes).ok().context("span size must be >= 0")?,
            SpanSize::Auto if known => DEFAULT_SPAN_SIZE,
            SpanSize::Auto => {
                let hint = "give it a --trace or a --profile of the workload, or name a size";
                return Err(Hinted::new("--span-size auto needs to know the workload", hint).into());
            }
        };
        let min_layer_size = match self.min_layer_size {
            Some(size) => u64::try_from(size).ok().context("min layer size must be >= 0")?,
            None if known => MIN_LAYER_SIZE_WHEN_KNOWN,
            None => DEFAULT_MIN_LAYER_SIZE,
        };
        if self.fine_span_size.is_some() && !self.has_fine() {
            let hint = "add --fine, or a --trace or --profile";
            return Err(
                Hinted::new("--fine-span-size is that of a fine index, and none is made", hint).into()
            );
        }
        if let Some(name) = self.optimizations.iter().find(|name| *name != "xattr") {
            bail!("optimization {name} is not a valid optimization [xattr]");
        }
        let mut prefetch_files = self.prefetch_file.clone();
        if let Some(path) = &self.prefetch_files_json {
            let listed = listed(Path::new(path)).context("failed to load prefetch files from JSON");
            prefetch_files.extend(listed.context("failed to parse prefetch files")?);
        }
        prefetch_files.retain(|path| !path.trim().is_empty());
        let hug = self.span_layout.unwrap_or(SpanLayout::Trace) == SpanLayout::Trace;
        let span_gap = hug.then_some(self.span_gap);
        let budget = self.prefetch_budget;
        let trace = known.then(|| TraceSettings { plan: PlanSource::default(), span_gap, budget });
        Ok(Settings {
            version,
            span_size,
            min_layer_size,
            force: self.force,
            mark_no_xattrs: !self.optimizations.is_empty(),
            prefetch_files,
            selection: match self.prefetch_compat {
                PrefetchCompat::Image => Selection::Image,
                PrefetchCompat::Upstream => Selection::Upstream,
            },
            trace,
            fine: self.has_fine().then_some(self.fine_span_size.unwrap_or(DEFAULT_FINE_SPAN_SIZE)),
            advised_whole: false,
        })
    }

    /// What to pack beside an index with these settings, if a pack was asked for.
    pub(crate) fn pack(&self, settings: &Settings) -> Option<PackSettings> {
        // The plan itself comes with the index.
        let plan = settings.trace.as_ref().map(|_| Plan::default());
        let pack = self.pack.settings(plan.as_ref())?;
        Some(PackSettings { advised_whole: settings.advised_whole, ..pack })
    }

    /// What the model is to decide.
    pub(crate) fn open(&self) -> Open {
        Open {
            span_size: self.span_size == SpanSize::Auto,
            advice: self.advise,
            pack: self.pack.is_wanted(self.evidence.is_given()),
        }
    }

    /// Reads what is known of the workload. Nothing of it is bound to an image yet.
    pub(crate) fn known(&self) -> Result<Option<Known>> {
        let paths = self.globs.paths(self.evidence.is_given())?;
        Ok(self.evidence.read(self.pack.name())?.map(|known| known.within(paths)))
    }

    /// Says what was planned, after all of it was made.
    pub(super) fn sum_up(&self, built: &Built) {
        if !self.quiet && !self.json {
            built.sum_up(self.dry_run);
        }
    }

    /// The defaults, for what a profile knows, within these limits. Of results only bars are shown.
    pub(super) fn of_profile(
        profile: PathBuf,
        globs: Globs,
        prefetch_budget: Option<Budget>,
        pack: PackArgs,
    ) -> Result<Self> {
        let evidence = Evidence::of_profile(profile);
        Ok(Self { evidence, globs, prefetch_budget, pack, bars_alone: true, ..usage::args(&[])? })
    }
}

/// Where the plan for an image comes from. A profile of another build is rebased with what the build of the index finds out, unless
/// something has to be decided before.
pub(crate) fn source(
    known: &Known,
    open: Open,
    image: &Image,
    runtime: &Handle,
    heard: &Heard,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<PlanSource> {
    if let Some(plan_of) = known.of_files(image).filter(|_| open.is_nothing()) {
        let (heard, of) = (heard.clone(), image.clone());
        return Ok(PlanSource::OfFiles(Arc::new(move |files| heard.plan(&of, plan_of(files)))));
    }
    Ok(PlanSource::Known(heard.plan(image, known.plan_for(image, runtime, tell)?)))
}

/// The same settings, with what is known of the workload applied to an image.
pub(crate) fn for_image(
    settings: &Settings,
    known: Option<&Known>,
    open: Open,
    image: &Image,
    runtime: &Handle,
    heard: &Heard,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Settings> {
    let mut settings = settings.clone();
    if let (Some(trace), Some(known)) = (&mut settings.trace, known) {
        trace.plan = source(known, open, image, runtime, heard, tell)?;
        open.decide(known, image, runtime, tell, &mut settings)?;
    }
    Ok(settings)
}

/// The paths of a JSON list; `null` is an empty one.
fn listed(path: &Path) -> Result<Vec<String>> {
    let text = fs::read(path).map_err(|error| {
        let cause = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        anyhow::anyhow!("failed to read JSON file: open {}: {cause}", path.display())
    })?;
    let what = |cause| format!("failed to parse JSON: {}: {cause}", path.display());
    // Editors put a byte order mark in front; JSON has none, and UTF-8 needs none.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    if text.starts_with(b"\xff\xfe") || text.starts_with(b"\xfe\xff") {
        return Err(Hinted::new(
            what("the file is UTF-16, as its byte order mark says".to_owned()),
            "save it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE",
        )
        .into());
    }
    let paths: Option<Vec<String>> =
        serde_json::from_slice(text).map_err(|error| anyhow::anyhow!(what(error.to_string())))?;
    let paths = paths.unwrap_or_default();
    match paths.iter().filter(|path| path.trim().is_empty()).count() {
        0 if paths.is_empty() => say!("warning: {} names no paths: nothing is prefetched", path.display()),
        0 => {}
        count => say!("warning: {count} of the paths in {} are empty; they are left out", path.display()),
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use soci_core::{
        index::DEFAULT_MIN_LAYER_SIZE,
        ztoc::{DEFAULT_FINE_SPAN_SIZE, DEFAULT_SPAN_SIZE},
    };

    use super::size::parse;

    #[test]
    fn defaults_that_the_help_names_are_the_librarys() {
        assert_eq!(parse("4MiB"), Ok(DEFAULT_SPAN_SIZE));
        assert_eq!(parse("10MiB"), Ok(DEFAULT_MIN_LAYER_SIZE));
        assert_eq!(parse("256KiB"), Ok(DEFAULT_FINE_SPAN_SIZE));
    }
}
