//! The flags that say how an index is built, for `create` and `convert`, and what is said while it is built. Holds no
//! state.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use recorder::report::Flaw;
use soci_core::{
    image::Image,
    index::{DEFAULT_MIN_LAYER_SIZE, Event, IndexVersion, Settings, SkipReason, TraceSettings},
    pack::PackSettings,
    prefetch::{Chosen, Meaning, NotLocated, Plan, Selection},
    trace::{Access, TraceReader},
    ztoc::{DEFAULT_FINE_SPAN_SIZE, DEFAULT_SPAN_SIZE},
};

use super::pack_args::{self, PackArgs};
use crate::{error::Hinted, output::progress::Progress};

/// How an index is built.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {
    /// Uncompressed bytes of a span.
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_SPAN_SIZE as i64, allow_negative_numbers = true)]
    span_size: i64,
    /// Layers smaller than this (compressed bytes) get no zTOC; they are fetched whole.
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MIN_LAYER_SIZE as i64, allow_negative_numbers = true)]
    min_layer_size: i64,
    /// xattr: mark layers that need no extended attributes. May be repeated.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    optimizations: Vec<String>,
    /// Build zTOCs anew even if they are known.
    #[arg(long, short = 'f')]
    force: bool,
    /// A file to prefetch, a directory (all files below it), or a pattern with *, **, ? and [a-z]. May be repeated.
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    prefetch_file: Vec<String>,
    /// A file with a JSON array of paths to prefetch.
    #[arg(long, value_name = "FILE")]
    prefetch_files_json: Option<String>,
    /// How paths to prefetch are looked up: in the merged image, following links and whiteouts; or as upstream's tool
    /// does, by the names in the tars of layers with a zTOC.
    #[arg(long, value_name = "RULE", default_value = "image")]
    prefetch_compat: PrefetchCompat,
    /// A recording of the workload: prefetch what it read, in the order in which it needed it. May be repeated, for several
    /// recordings of one workload: what any of them read, at the earliest moment.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prefetch_file", "prefetch_files_json"])]
    trace: Vec<String>,
    /// Take a trace that may lack something: accesses were lost, its end is missing, or the page cache was warm.
    #[arg(long, requires = "trace")]
    allow_incomplete: bool,
    /// Where spans begin: by upstream's rule, or also at the edges of what the trace needs.
    #[arg(long, value_name = "LAYOUT", default_value = "upstream", requires_if("trace", "trace"))]
    span_layout: SpanLayout,
    /// With --span-layout trace: needed ranges at most this many bytes apart share a span. (Each range costs two
    /// windows of 32 KiB in the zTOC, which is what a gap of 256 KiB costs when it compresses to a quarter.)
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 10)]
    span_gap: u64,
    #[command(flatten)]
    pack: PackArgs,
    /// Also make fine indexes, beside the image: small spans, of which a start fetches less in vain. Layers whose zTOC is
    /// known are read again. Layers that are too small for a zTOC get one, too: with a pack, no start waits for them.
    #[arg(long)]
    fine: bool,
    /// With --fine: uncompressed bytes of a span.
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_FINE_SPAN_SIZE, requires = "fine",
        value_parser = clap::value_parser!(u64).range(FINE_SPANS))]
    fine_span_size: u64,
    /// Print only the digest of what was made; no progress.
    #[arg(long, short = 'q')]
    quiet: bool,
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
    /// Where lines and bars go.
    pub(crate) fn progress(&self) -> Progress {
        Progress::new(self.quiet)
    }

    /// What to build.
    pub(crate) fn settings(&self, version: IndexVersion) -> Result<Settings> {
        let span_size = u64::try_from(self.span_size).ok().context("span size must be >= 0")?;
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
        let traced = !self.trace.is_empty();
        let trace = traced.then(|| plan(&self.trace, self.allow_incomplete)).transpose()?;
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
            trace: trace.map(|plan| TraceSettings { plan, span_gap }),
            fine: self.fine.then_some(self.fine_span_size),
        })
    }

    /// What to pack beside an index with these settings, if a pack was asked for.
    pub(crate) fn pack(&self, settings: &Settings) -> Option<PackSettings> {
        self.pack.settings(settings.trace.as_ref().map(|trace| &trace.plan))
    }

    /// Says when a trace is of another image.
    pub(crate) fn warn_about_other_image(&self, image: &Image) -> Result<()> {
        warn_about_other_image(&self.trace, image)
    }
}

/// Says when a trace is of another image.
pub(crate) fn warn_about_other_image(traces: &[String], image: &Image) -> Result<()> {
    for path in traces {
        match TraceReader::open(Path::new(path))?.header().manifest {
            None => say!("note: trace {path} is of a directory: its paths are looked up in the image"),
            Some(recorded) if recorded != image.manifest.digest => say!(
                "warning: trace {path} was recorded on image manifest {recorded}, this one is {}: paths that differ are \
                 left out",
                image.manifest.digest
            ),
            Some(_) => {}
        }
    }
    Ok(())
}

/// What any of the traces needs. One that may lack something is refused, or with `allow_incomplete` warned about.
pub(crate) fn plan(traces: &[String], allow_incomplete: bool) -> Result<Plan> {
    let mut all = Vec::new();
    for path in traces {
        all.extend(accesses(Path::new(path), allow_incomplete)?);
    }
    Ok(recorder::plan::plan(&all))
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
    let paths: Option<Vec<String>> = serde_json::from_slice(&text).context("failed to parse JSON")?;
    Ok(paths.unwrap_or_default())
}

/// The accesses of a trace, for [`plan`].
fn accesses(path: &Path, allow_incomplete: bool) -> Result<Vec<Access>> {
    let read = || format!("read trace {}", path.display());
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
    Ok(accesses)
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
            say!("note: {bytes} bytes of the trace lie in layers without a zTOC, which are fetched whole");
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
