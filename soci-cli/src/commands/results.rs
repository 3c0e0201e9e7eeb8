//! Where the results of a recording are: files whose names belong together. Nothing of an earlier recording is replaced,
//! unless the user says so.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use planner::plan;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use soci_core::trace::TraceReader;
use tempfile::NamedTempFile;

use super::partial_trace::partial;
use super::record_args::Args;
use crate::hint::Hinted;

/// The names of one call's results.
#[derive(Debug)]
pub(super) struct Results {
    dir: PathBuf,
    name: String,
    /// Nobody else records under this name meanwhile.
    claim: Option<Claim>,
}

/// A lock file beside the results, which goes with the recording.
#[derive(Debug)]
struct Claim {
    path: PathBuf,
    _lock: File,
}

impl Claim {
    /// `Ok(None)`: the directory cannot be written to. The writer of the results says so.
    ///
    /// # Errors
    /// When another recording has it.
    fn of(results: &Results) -> Result<Option<Self>, Errno> {
        let path = results.dir.join(format!(".{}.recording", results.name));
        let Ok(lock) = File::create(&path) else { return Ok(None) };
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Some(Self { path, _lock: lock }))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // It is locked until then: nobody takes it for free before the results are there.
        let _ = fs::remove_file(&self.path);
    }
}

impl Results {
    /// The names that the user wants; without any, those after `of`, what is recorded, that are free.
    pub(super) fn choose(args: &Args, of: &str) -> Result<Self> {
        let named = |name: String| Self { dir: args.out.clone(), name, claim: None };
        let Some(name) = &args.name else {
            let first = default_name(of);
            let later = (2..).map(|number| format!("{first}-{number}"));
            let mut names = std::iter::once(first.clone()).chain(later).map(named);
            let free = names
                .find_map(|names| names.claimed().filter(|names| args.force || names.taken(args).is_none()));
            return free.context("no name is free"); // there is always one
        };
        let this = named(name.clone()).claimed();
        let Some(this) = this else {
            let hint = "another --name, or another --out, keeps both";
            return Err(Hinted::new(format!("another recording named {name} is under way"), hint).into());
        };
        match this.taken(args) {
            Some(there) if !args.force => {
                let hint = "--force replaces the results of an earlier recording; another --name keeps them";
                Err(Hinted::new(format!("{} is there already", there.display()), hint).into())
            }
            _ => Ok(this),
        }
    }

    /// With the name claimed; `None` when another recording has it.
    fn claimed(mut self) -> Option<Self> {
        self.claim = Claim::of(&self).ok()?;
        Some(self)
    }

    /// One of the files, if it is there.
    fn taken(&self, args: &Args) -> Option<PathBuf> {
        let runs = (1..=args.runs).filter(|_| args.runs > 1).map(|run| self.run(run));
        let runs = runs.flat_map(|run| [partial(&run), run]);
        let page = args.report.then(|| self.page());
        let profile = args.goes_on.then(|| self.profile());
        [self.trace(), partial(&self.trace()), self.list()]
            .into_iter()
            .chain(page)
            .chain(profile)
            .chain(runs)
            .find(|path| path.symlink_metadata().is_ok())
    }

    /// The trace.
    pub(super) fn trace(&self) -> PathBuf {
        self.file("trace")
    }

    /// The trace of one of several runs.
    pub(super) fn run(&self, number: u32) -> PathBuf {
        self.file(&format!("{number}.trace"))
    }

    /// The paths in the order of their first use.
    pub(super) fn list(&self) -> PathBuf {
        self.file("prefetch.json")
    }

    /// The page.
    pub(super) fn page(&self) -> PathBuf {
        self.file("html")
    }

    /// The profile of all runs.
    pub(super) fn profile(&self) -> PathBuf {
        self.file("profile")
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.dir.join(format!("{}.{extension}", self.name))
    }

    /// Writes the list of a trace's paths. JSON has text only: the number of paths that are none, and are not in it.
    pub(super) fn write_list(&self, trace: &Path) -> Result<usize> {
        let mut failed = None;
        let mut reader = TraceReader::open(trace)?;
        let accesses = reader.by_ref().map_while(|access| access.map_err(|error| failed = Some(error)).ok());
        let paths = plan::first_use(accesses);
        if let Some(error) = failed {
            return Err(error).with_context(|| format!("cannot read {}", trace.display()));
        }
        let names = plan::all_names(&paths, reader.tail());
        let text: Vec<String> =
            names.iter().filter_map(|path| Some(format!("/{}", std::str::from_utf8(path).ok()?))).collect();
        let left_out = names.len() - text.len();
        let list = self.list();
        write_whole(&list, &serde_json::to_vec(&text)?)
            .with_context(|| format!("cannot write {}", list.display()))?;
        Ok(left_out)
    }
}

/// Writes a file beside its place and renames it: nobody sees half of it.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    // Readable for all, as any result: the temporary file is not.
    file.as_file().set_permissions(Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

/// A name for the results: the last part of the name of what is recorded.
fn default_name(of: &str) -> String {
    let last = of.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = last.split(':').next().unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.chars().map(safe).collect();
    if name.trim_matches('.').is_empty() { "recording".into() } else { name }
}
