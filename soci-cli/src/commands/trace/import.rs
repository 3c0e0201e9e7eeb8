//! `soci trace import`: what another tool wrote becomes a trace of an image.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use planner::import::{self, Format, ImageFiles, Imported, Target};
use soci_core::escape::escape;
use soci_core::image::{Image, ImageSource, Platform};
use soci_core::index;
use soci_core::trace::LayerRef;
use tokio::runtime::Runtime;

use crate::output::place::{Overwrite, Pending};
use crate::{global::Global, output::json, sources::RegistryFlags};

/// Make a trace of an image from what another tool wrote.
///
/// Lists name whole files; their order becomes the order of need. A path that is no file of the image is left out.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What the file is.
    #[arg(long, short = 'f', value_name = "FORMAT")]
    format: From,
    /// The image the workload was of: oci:DIR[:TAG], oci-archive:FILE[:TAG], or a registry reference. Its layers are read.
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// The platform of the image, os/arch[/variant]; the default is this machine's.
    #[arg(long, short = 'p', value_name = "PLATFORM")]
    platform: Option<String>,
    #[command(flatten)]
    registry: RegistryFlags,
    /// The trace; it appears when it is whole. [default: the file's name with the extension trace, not replaced]
    #[arg(long, short = 'o', value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    overwrite: Overwrite,
    /// Print what was made as JSON.
    #[arg(long)]
    json: bool,
    /// What the other tool wrote; - is standard input.
    #[arg(value_name = "FILE")]
    input: PathBuf,
}

/// `--format`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum From {
    /// The record of `ctr-remote image optimize --record-out` of stargz-snapshotter.
    Stargz,
    /// nydus' list of files and directories, one a line.
    Nydus,
    /// The table of nydus-snapshotter's optimizer: path,size,elapsed.
    NydusCsv,
    /// nydus' list of file ranges.
    NydusJson,
    /// overlaybd's list of files and directories, one a line.
    Overlaybd,
    /// Output of `strace -f`, best with -tt, -ttt or -r, and with -T for waits.
    Strace,
    /// Files and directories, one a line, or a JSON array of strings.
    Paths,
    /// What `soci trace export --format jsonl` wrote.
    Jsonl,
}

pub(crate) fn run(args: &Args, _: &Global) -> Result<()> {
    let format = match args.format {
        From::Stargz => Format::Stargz,
        From::Nydus => Format::Nydus,
        From::NydusCsv => Format::NydusCsv,
        From::NydusJson => Format::NydusJson,
        From::Overlaybd => Format::Overlaybd,
        From::Strace => Format::Strace,
        From::Paths => Format::Paths,
        From::Jsonl => Format::Jsonl,
    };
    let output = output(args)?;
    let mut input: Box<dyn BufRead> = if args.input == Path::new("-") {
        Box::new(io::stdin().lock())
    } else {
        let file =
            File::open(&args.input).with_context(|| format!("cannot open {}", args.input.display()))?;
        Box::new(BufReader::with_capacity(64 << 10, file))
    };
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let image = runtime.block_on(resolve(args))?;
    let view = index::view(&image, runtime.handle())?;
    let layers = image.layers().iter().map(|layer| LayerRef { digest: layer.digest, size: layer.size });
    let target = Target {
        image: image.reference.clone(),
        manifest: image.manifest.digest,
        files: ImageFiles::new(view, layers.collect()),
        working_dir: image.config.working_dir.clone(),
        now: jiff::Timestamp::now().to_string(),
    };
    let pending = Pending::new(&output, args.overwrite.is_on())?;
    let imported = import::import(&mut input, format, &target, pending.path())
        .with_context(|| format!("cannot import {}", args.input.display()))?;
    pending.finish()?;
    tell(&imported);
    if args.json {
        let trace =
            serde_json::json!({ "trace": output.display().to_string(), "accesses": imported.accesses });
        out!("{}", json::pretty(&trace)?);
    } else {
        out!("{}: {} accesses", output.display(), imported.accesses);
    }
    Ok(())
}

async fn resolve(args: &Args) -> Result<Image> {
    let platform = match &args.platform {
        Some(text) => text.parse().with_context(|| format!("could not parse platform {text}"))?,
        None => Platform::host().normalized(),
    };
    let source = ImageSource::parse(&args.image, &args.registry.registry(&args.image)?)?;
    Ok(source.resolve(&platform).await?)
}

/// Where the trace goes.
fn output(args: &Args) -> Result<PathBuf> {
    if let Some(output) = &args.output {
        return Ok(output.clone());
    }
    let Some(stem) = args.input.file_stem().filter(|_| args.input != Path::new("-")) else {
        bail!("standard input has no name: give the trace one with --output");
    };
    Ok(Path::new(stem).with_extension("trace"))
}

fn tell(imported: &Imported) {
    if let Some(first) = &imported.first_outside {
        say!(
            "note: {} uses of paths that are no files of the image are left out (the first: {})",
            imported.outside,
            escape(first)
        );
    }
    if let Some(first) = imported.first_unknown {
        say!("warning: {} lines are not understood (the first: line {first})", imported.unknown_lines);
    }
    if imported.other_image > 0 {
        say!("warning: {} entries are of another image manifest", imported.other_image);
    }
}
