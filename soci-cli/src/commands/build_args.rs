//! The flags that say how an index is built, for `create` and `convert`, and what is said while it is built. Holds no
//! state.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use soci_core::{
    image::Image,
    index::{Event, IndexVersion, PlanSource, Settings, SkipReason, TraceSettings},
    pack::PackSettings,
    prefetch::{Chosen, Meaning, NotLocated, Plan, Selection},
    ztoc::DEFAULT_SPAN_SIZE,
};

use super::evidence::{Evidence, Known};
use super::modelled::Open;
use super::pack_args::{self, PackArgs};
use crate::{
    help::heading::{OUTPUT, PLANNING},
    hint::Hinted,
    output::progress::Progress,
    size,
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
    #[arg(long, value_name = "SIZE", default_value = "10MiB", value_parser = size::signed, allow_negative_numbers = true)]
    min_layer_size: i64,
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
    /// Where spans begin: by upstream's rule, or also at the edges of what the trace needs.
    #[arg(long, help_heading = PLANNING, value_name = "LAYOUT", default_value = "upstream", requires_if("trace", "evidence"))]
    span_layout: SpanLayout,
    /// With --span-layout trace: needed ranges that are at most this far apart share a span. (Each range costs two
    /// windows of 32 KiB in the zTOC, which is what a gap of 256 KiB costs when it compresses to a quarter.)
    #[arg(long, help_heading = PLANNING, value_name = "SIZE", default_value = "256KiB", value_parser = size::parse)]
    span_gap: u64,
    #[command(flatten)]
    pack: PackArgs,
    /// Also build a fine index, with small spans, so that a start downloads fewer unneeded bytes. Reads layers again that
    /// have a zTOC already, and covers layers below --min-layer-size as well.
    #[arg(long, help_heading = PLANNING)]
    fine: bool,
    /// With --fine: size of a span, uncompressed; 16KiB to 64MiB.
    #[arg(long, help_heading = PLANNING, value_name = "SIZE", default_value = "256KiB", requires = "fine",
        value_parser = fine_span)]
    fine_span_size: u64,
    /// Print only the digest of what was made; no progress, no notes.
    #[arg(long, short = 'q', help_heading = OUTPUT)]
    quiet: bool,
    /// Print what was made as JSON; no progress.
    #[arg(long, help_heading = OUTPUT, conflicts_with = "quiet")]
    pub(crate) json: bool,
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
        let in_parts = self.fine && self.pack.is_wanted();
        if !(in_parts && matches!(event, Event::OutsideSpans(_))) {
            tell(event, progress);
        }
    }

    /// Whether only digests are wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Where lines and bars go.
    pub(crate) fn progress(&self) -> Progress {
        Progress::new(self.quiet || self.json)
    }

    /// What to build.
    pub(crate) fn settings(&self, version: IndexVersion) -> Result<Settings> {
        let span_size = match self.span_size {
            SpanSize::Bytes(bytes) => u64::try_from(bytes).ok().context("span size must be >= 0")?,
            SpanSize::Auto if self.evidence.is_given() => DEFAULT_SPAN_SIZE,
            SpanSize::Auto => {
                let hint = "give it a --trace or a --profile of the workload, or name a size";
                return Err(Hinted::new("--span-size auto needs to know the workload", hint).into());
            }
        };
        let min_layer_size =
            u64::try_from(self.min_layer_size).ok().context("min layer size must be >= 0")?;
        if let Some(name) = self.optimizations.iter().find(|name| *name != "xattr") {
            bail!("optimization {name} is not a valid optimization [xattr]");
        }
        let mut prefetch_files = self.prefetch_file.clone();
        if let Some(path) = &self.prefetch_files_json {
            let listed = listed(Path::new(path)).context("failed to load prefetch files from JSON");
            prefetch_files.extend(listed.context("failed to parse prefetch files")?);
        }
        prefetch_files.retain(|path| !path.trim().is_empty());
        let span_gap = (self.span_layout == SpanLayout::Trace).then_some(self.span_gap);
        let trace = self.evidence.is_given().then(|| TraceSettings { plan: PlanSource::default(), span_gap });
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
            fine: self.fine.then_some(self.fine_span_size),
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
        Open { span_size: self.span_size == SpanSize::Auto, advice: self.advise, pack: self.pack.is_wanted() }
    }

    /// Reads what is known of the workload. Nothing of it is bound to an image yet.
    pub(crate) fn known(&self) -> Result<Option<Known>> {
        self.evidence.read(self.pack.name())
    }
}

/// The same settings, with what is known of the workload applied to an image.
pub(crate) fn for_image(
    settings: &Settings,
    known: Option<&Known>,
    open: Open,
    image: &Image,
    runtime: &Handle,
    tell: &(dyn Fn(Event<'_>) + Sync),
) -> Result<Settings> {
    let mut settings = settings.clone();
    if let (Some(trace), Some(known)) = (&mut settings.trace, known) {
        if open.is_nothing() {
            trace.plan = known.with_index_of(image)?;
        } else {
            // What is decided says how the index is built: what the image contains is read before.
            trace.plan = PlanSource::Known(known.plan_for(image, runtime, tell)?);
            open.decide(known, image, runtime, tell, &mut settings)?;
        }
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

/// Says what became of a layer, in the words of upstream's tool; warnings go to standard error.
pub(crate) fn tell(event: Event<'_>, progress: &Progress) {
    match event {
        Event::Read { blob, bytes } => progress.advance(blob, bytes),
        Event::Ztoc { layer, ztoc, existed } => {
            let known = if existed { " (already exists)" } else { "" };
            progress.line(&format!("layer {} -> ztoc {ztoc}{known}", layer.digest));
        }
        Event::NoFineTable { layer, reason } => {
            say!("warning: no fine table - layer {} {reason}", layer.digest);
        }
        Event::Skipped { layer, reason } => {
            let size = match reason {
                SkipReason::TooSmall(_) => format!("size {} ", layer.size),
                _ => String::new(),
            };
            progress.line(&format!(
                "ztoc skipped - layer {} ({}) {size}{reason}",
                layer.digest, layer.media_type
            ));
        }
        Event::Prefetch { layer, artifact } => {
            progress.line(&format!("Created prefetch artifact for layer {layer}: {artifact}"));
        }
        Event::FineIndex(fine) => progress.line(&format!("fine index -> {}", fine.digest)),
        Event::Chosen(chosen) => tell_chosen(chosen),
        Event::FileNotFound(path) => {
            say!("warning: prefetch file {path} not found in any layer");
        }
        Event::PathsNotFound { count, first } => {
            let first = String::from_utf8_lossy(first);
            say!("warning: {count} paths of the trace are no files of this image (the first: {first})");
        }
        Event::LayerUnread(layer) => {
            say!("warning: files of layer {} ({}) cannot be listed", layer.digest, layer.media_type);
        }
        Event::OutsideSpans(bytes) => {
            progress.note(&format!(
                "{bytes} bytes of the trace lie in layers without a zTOC, which are fetched whole"
            ));
        }
        Event::Pack(pack) => pack_args::tell(pack, progress),
    }
}

/// Says what a line of the prefetch list stands for, unless that is plain.
fn tell_chosen(chosen: &Chosen) {
    let line = &chosen.line;
    match &chosen.meaning {
        Meaning::File => {}
        Meaning::Link(own) => {
            say!("note: prefetch file {line} is {}", String::from_utf8_lossy(own));
        }
        Meaning::Directory(files) => {
            say!("note: prefetch path {line} is a directory, {files} files with content");
        }
        Meaning::Pattern(files) => {
            say!("note: prefetch pattern {line} matches {files} files with content");
        }
        Meaning::Hidden => {
            say!("warning: prefetch file {line} is removed by an upper layer");
        }
        Meaning::Nothing(NotLocated::Missing) => {
            say!("warning: prefetch file {line} not found in any layer");
        }
        Meaning::Nothing(reason) => say!("warning: prefetch file {line}: {reason}"),
    }
    match chosen.unspanned {
        0 => {}
        files => {
            say!("note: {files} files of {line} lie in layers without a zTOC, which are fetched whole");
        }
    }
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
