//! `soci ztoc info`: spans and files as JSON.

use anyhow::Result;
use serde::Serialize;
use soci_core::{
    prefetch::compat::span_range,
    units::ByteRange,
    ztoc::{FileEntry, Ztoc},
};

use crate::{
    global::Global,
    output::json,
    root::{self, Root},
};

/// Show spans and files of a zTOC.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Digest of the zTOC.
    digest: Option<String>,
    /// Accepted for compatibility; the output is always JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Info {
    version: String,
    build_tool: String,
    size: u64,
    span_size: u64,
    num_spans: u32,
    num_files: usize,
    num_multi_span_files: usize,
    /// `null` when there are none, as upstream prints it.
    files: Option<Vec<File>>,
}

#[derive(Serialize)]
struct File {
    filename: String,
    offset: u64,
    size: u64,
    r#type: &'static str,
    start_span: u32,
    end_span: u32,
}

pub(crate) fn run(args: &Args, global: &Global) -> Result<()> {
    let digest = root::digest(args.digest.as_deref())?;
    let root = Root::open(global)?;
    let (_, ztoc) = super::open(&root, &digest)?;
    let files: Vec<File> = ztoc.files().iter().map(|file| describe(&ztoc, file)).collect();
    let info = Info {
        version: ztoc.version().into_owned(),
        build_tool: ztoc.build_tool().into_owned(),
        size: ztoc.size(),
        span_size: ztoc.spans().span_size(),
        num_spans: ztoc.spans().len(),
        num_files: files.len(),
        num_multi_span_files: files.iter().filter(|file| file.start_span != file.end_span).count(),
        files: (!files.is_empty()).then_some(files),
    };
    out!("{}", json::pretty(&info)?);
    Ok(())
}

fn describe(ztoc: &Ztoc, file: &FileEntry) -> File {
    let end = file.content_offset.saturating_add(file.size);
    let spans = span_range(ztoc, ByteRange::new(file.content_offset, end));
    File {
        filename: String::from_utf8_lossy(&file.name).into_owned(),
        offset: file.content_offset,
        size: file.size,
        r#type: file.kind.as_str(),
        start_span: spans.start_span,
        end_span: spans.end_span,
    }
}
