//! The recordings of an image, and the profile that is made of them. Holds no state: the results are files.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use soci_core::image::Image;
use tokio::runtime::Handle;

use super::Args;
use crate::commands::evidence::{self, Evidence};
use crate::commands::results::write_whole;
use crate::commands::stop::Stop;
use crate::commands::{record, record_args, told};
use crate::output::progress::Progress;
use crate::{global::Global, usage};

impl Args {
    /// The flags of the recording.
    pub(super) fn recording(&self) -> Result<record_args::Args> {
        Ok(record_args::Args {
            image: Some(self.image.clone()),
            workload: self.workload.clone(),
            engine: self.engine.clone(),
            tail: self.tail,
            runs: self.runs,
            out: self.output.clone(),
            name: self.name.clone(),
            force: self.force,
            state: self.state.clone(),
            allow_incomplete: self.allow_incomplete,
            json: self.json,
            registry: self.registry.clone(),
            goes_on: true,
            ..usage::args(&[])?
        })
    }
}

/// Records, and gives the path of the profile. The inner error is the exit code of a recording that is no use; why was said.
pub(super) fn learn(
    args: &Args,
    recording: &record_args::Args,
    global: &Global,
    image: &Image,
    stop: &mut Stop,
    runtime: &Handle,
) -> Result<Result<PathBuf, u8>> {
    fs::create_dir_all(&args.output).with_context(|| format!("cannot make {}", args.output.display()))?;
    let (results, runs) = record::of_image(recording, global, image, runtime, stop)?;
    if runs.code != 0 {
        let names: Vec<String> = runs.traces.iter().map(|path| path.display().to_string()).collect();
        if !names.is_empty() {
            say!("kept:        {}; nothing was made of it", names.join(", "));
        }
        return Ok(Err(runs.code));
    }
    let evidence = Evidence::of_traces(runs.traces, args.allow_incomplete);
    let profile = evidence.merged(Some(args.name.as_deref().unwrap_or_default()))?;
    let files = {
        let (image, runtime, progress) = (image.clone(), runtime.clone(), progress(args));
        let tell = move |event: soci_core::index::Event<'_>| told::tell(event, &progress);
        stop.work(move || evidence::inventory(&image, &runtime, &tell))?
    };
    let mut profile = profile.with_contents(&files);
    profile.image = evidence::source(image);
    let path = results.profile();
    write_whole(&path, &profile.to_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
    if !args.json {
        let (runs, files) = (profile.runs().len(), profile.files().len());
        let bytes = HumanBytes(profile.bytes());
        say!("recorded:    {runs} runs, {files} files, {bytes} in {}", path.display());
    }
    Ok(Ok(path))
}

/// Bars on a terminal; results are told in the end.
fn progress(args: &Args) -> Progress {
    if args.json { Progress::new(true) } else { Progress::bars_alone() }
}
