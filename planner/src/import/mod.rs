//! Traces from what other tools wrote: lists of files, system call logs, rows of ours.
//!
//! [`import`] owns the trace being written. What must always hold: a trace names only files that the image shows, under
//! their own path (links followed), with ranges that lie inside them; all else is counted. Rows of ours alone are taken as
//! they are, so that nothing changes on the way; whoever uses a trace looks its paths up anyway. On any error the trace is not
//! sealed, and the caller throws it away. Nothing in the input can make it panic; lines have a longest length.

mod error;
mod files;
mod jsonl;
mod lines;
mod nydus;
mod overlaybd;
mod paths;
mod stargz;
mod strace;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

use soci_core::digest::Digest;
use soci_core::trace::{Access, AccessKind, End, Header, Outcome, Phase, Process, TraceWriter};

pub use error::ImportError;
pub use files::ImageFiles;
use lines::Lines;

/// What the input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// stargz-snapshotter's record: JSON objects with a path, one a line.
    Stargz,
    /// nydus' list of files and directories, one a line.
    Nydus,
    /// The table of nydus-snapshotter's optimizer.
    NydusCsv,
    /// nydus' list of file ranges (version v1).
    NydusJson,
    /// overlaybd's list of files and directories, one a line.
    Overlaybd,
    /// What strace printed.
    Strace,
    /// Files and directories, one a line, or a JSON array of strings.
    Paths,
    /// The rows that the export gives.
    Jsonl,
}

impl Format {
    /// Its name, as in the trace's engine `import:<name>`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stargz => "stargz",
            Self::Nydus => "nydus",
            Self::NydusCsv => "nydus-csv",
            Self::NydusJson => "nydus-json",
            Self::Overlaybd => "overlaybd",
            Self::Strace => "strace",
            Self::Paths => "paths",
            Self::Jsonl => "jsonl",
        }
    }
}

/// The image that the trace is to be bound to.
#[derive(Debug)]
pub struct Target {
    /// The image as the user named it.
    pub image: String,
    /// Digest of the platform's image manifest.
    pub manifest: Digest,
    /// Its files.
    pub files: ImageFiles,
    /// Where relative paths begin.
    pub working_dir: String,
    /// The time of the import, RFC 3339 UTC.
    pub now: String,
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Accesses in the trace.
    pub accesses: u64,
    /// Uses of paths that are no files of the image.
    pub outside: u64,
    /// The first of these paths.
    pub first_outside: Option<Vec<u8>>,
    /// Lines that are not understood (strace only; in other formats they are errors).
    pub unknown_lines: u64,
    /// The first of these lines, counted from 1.
    pub first_unknown: Option<u64>,
    /// Entries that name another image's manifest.
    pub other_image: u64,
}

/// Makes a trace at `path` of what another tool wrote.
///
/// # Errors
/// When the input is not what the format says, nothing of it is in the image, or the trace cannot be written. The file
/// at `path` is then of no use.
pub fn import(
    input: &mut dyn BufRead,
    format: Format,
    target: &Target,
    path: &Path,
) -> Result<Imported, ImportError> {
    let header = Header {
        image: target.image.clone(),
        manifest: Some(target.manifest),
        layers: target.files.layers().to_vec(),
        engine: format!("import:{}", format.name()),
        argv: Vec::new(),
        started_at: target.now.clone(),
        warm: None,
        waits: None,
        partial: false,
    };
    let mut out = Collector {
        files: &target.files,
        writer: TraceWriter::create(path, &header)?,
        nobody: Arc::new(Process { pid: 0, comm: Arc::from(&b""[..]) }),
        last_ns: 0,
        done: Imported::default(),
    };
    let mut lines = Lines::new(input);
    match format {
        Format::Stargz => stargz::read(&mut lines, target.manifest, &mut out),
        Format::Nydus => nydus::list(&mut lines, &mut out),
        Format::NydusCsv => nydus::table(&mut lines, &mut out),
        Format::NydusJson => nydus::ranges(&mut lines, &mut out),
        Format::Overlaybd => overlaybd::read(&mut lines, &mut out),
        Format::Strace => strace::read(&mut lines, &target.working_dir, &mut out),
        Format::Paths => paths::read(&mut lines, &mut out),
        Format::Jsonl => jsonl::read(&mut lines, &mut out),
    }?;
    out.finish()
}

/// The trace being made.
struct Collector<'a> {
    files: &'a ImageFiles,
    writer: TraceWriter,
    nobody: Arc<Process>,
    last_ns: u64,
    done: Imported,
}

/// One use of a file, as an importer found it.
#[derive(Debug, Clone)]
struct Use {
    t_ns: u64,
    phase: Phase,
    kind: AccessKind,
    /// First byte and length; `None` is the whole file.
    range: Option<(u64, u64)>,
    /// `None` when not known.
    process: Option<Arc<Process>>,
    wait_ns: u64,
}

impl Use {
    /// The whole file, read at a place in a list: times of lists are their order, one microsecond an entry.
    fn listed(place: u64) -> Self {
        Self {
            t_ns: place.saturating_mul(1000),
            phase: Phase::Start,
            kind: AccessKind::Read,
            range: None,
            process: None,
            wait_ns: 0,
        }
    }
}

/// A process as one value for all its uses.
fn shared(known: &mut HashSet<Arc<Process>>, process: Process) -> Arc<Process> {
    if let Some(known) = known.get(&process) {
        return Arc::clone(known);
    }
    let process = Arc::new(process);
    known.insert(Arc::clone(&process));
    process
}

impl Collector<'_> {
    /// Adds a use of the file at `path`, absolute or relative to the root.
    fn add(&mut self, path: &[u8], used: &Use) -> Result<(), ImportError> {
        let Some(file) = self.files.find(path) else {
            self.outside(path);
            return Ok(());
        };
        let (offset, len) = used.range.unwrap_or((0, file.size));
        let len = len.min(file.size.saturating_sub(offset));
        if len == 0 {
            return Ok(()); // an empty file, or a read behind its end: nothing is needed of it
        }
        self.write(&Access {
            t_ns: used.t_ns,
            phase: used.phase,
            kind: used.kind,
            path: file.path,
            layer: Some(file.layer),
            offset,
            len,
            process: Arc::clone(used.process.as_ref().unwrap_or(&self.nobody)),
            wait_ns: used.wait_ns,
        })
    }

    /// Adds a listed path: a file, or a directory, which stands for all files below it, by name.
    fn add_tree(&mut self, path: &[u8], place: &mut u64) -> Result<(), ImportError> {
        let below = self.files.below(path);
        if below.is_empty() {
            self.add(path, &Use::listed(*place))?;
            *place += 1;
        }
        for path in below {
            self.add(&path, &Use::listed(*place))?;
            *place += 1;
        }
        Ok(())
    }

    fn outside(&mut self, path: &[u8]) {
        self.done.outside += 1;
        self.done.first_outside.get_or_insert_with(|| path.to_vec());
    }

    fn write(&mut self, access: &Access) -> Result<(), ImportError> {
        self.last_ns = self.last_ns.max(access.t_ns);
        self.done.accesses += 1;
        Ok(self.writer.access(access)?)
    }

    fn finish(self) -> Result<Imported, ImportError> {
        let Imported { accesses, outside, unknown_lines, .. } = self.done;
        if accesses == 0 {
            return Err(ImportError::Nothing { outside, unknown_lines });
        }
        self.writer.finish(&End {
            dropped: 0,
            outcome: Outcome::Exited,
            ready_ns: None,
            ended_ns: self.last_ns,
            exit_code: None,
            outside: None,
            links: std::collections::BTreeMap::new(),
        })?;
        Ok(self.done)
    }
}
