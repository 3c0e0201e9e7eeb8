//! `soci profile diff`: what only one of two profiles needs.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use indicatif::HumanBytes;
use planner::profile::Difference;
use planner::report::words::printable;
use serde::Serialize;
use soci_core::escape::escape;

use crate::commands::evidence::read_profile;
use crate::output::{json, stream::Results};

/// Files that are named.
const FILES: usize = 20;

/// Compare what any recording of one profile needs with what any of another one needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As JSON, with all files.
    #[arg(long)]
    json: bool,
    /// The one profile.
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The other profile.
    #[arg(value_name = "B")]
    b: PathBuf,
}

/// The keys are an interface.
#[derive(Serialize)]
struct Changes {
    both: u64,
    only_a: u64,
    only_b: u64,
    files: Vec<Change>,
}

#[derive(Serialize)]
struct Change {
    path: String,
    only_a: u64,
    only_b: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    later_us: Option<i64>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let difference = Difference::between(&read_profile(&args.a)?, &read_profile(&args.b)?);
    let text = if args.json { json::pretty(&changes(&difference))? + "\n" } else { text(&difference) };
    let mut out = Results::buffered();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn changes(difference: &Difference) -> Changes {
    let change = |change: &planner::profile::Change| Change {
        path: escape(&change.path).into_owned(),
        only_a: change.lost,
        only_b: change.gained,
        later_us: change.later_us,
    };
    Changes {
        both: difference.common,
        only_a: difference.lost(),
        only_b: difference.gained(),
        files: difference.changes.iter().map(change).collect(),
    }
}

fn text(difference: &Difference) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "in both:    {}", HumanBytes(difference.common));
    let _ = writeln!(text, "only in A:  {}", HumanBytes(difference.lost()));
    let _ = writeln!(text, "only in B:  {}", HumanBytes(difference.gained()));
    if !difference.changes.is_empty() {
        let _ = writeln!(text, "files:      {:>12} {:>12}", "only in A", "only in B");
    }
    for change in difference.changes.iter().take(FILES) {
        let [a, b] = [change.lost, change.gained].map(|bytes| HumanBytes(bytes).to_string());
        let _ = writeln!(text, "            {a:>12} {b:>12}  {}", printable(&change.path));
    }
    if difference.changes.len() > FILES {
        let _ = writeln!(text, "            and {} more (--json has all)", difference.changes.len() - FILES);
    }
    text
}
