//! `soci trace diff`: the bytes that only one of two recordings has, and why.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use indicatif::HumanBytes;
use planner::export::kind_name;
use planner::report::words::printable;
use planner::report::{Difference, Side};

use crate::output::{json, stream::Results};

/// Files that are named.
const FILES: usize = 20;

/// Compare two recordings of one workload: the bytes that only one of them has, and why that may be.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As JSON, with all files.
    #[arg(long)]
    json: bool,
    /// The one trace.
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The other trace.
    #[arg(value_name = "B")]
    b: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let difference =
        Difference::read(&args.a, &args.b).map_err(|(at, error)| (error, [&args.a, &args.b][at]));
    let difference = match difference {
        Ok(difference) => difference,
        Err((error, path)) => {
            return Err(error).with_context(|| format!("cannot read trace {}", path.display()));
        }
    };
    let text = if args.json { json::pretty(&difference)? + "\n" } else { text(&difference) };
    let mut out = Results::buffered();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn text(difference: &Difference) -> String {
    let Difference { a, b, both, files } = difference;
    let mut text = String::new();
    let sides = [("A", a), ("B", b)];
    for (name, side) in sides {
        let Side { image, engine, files, bytes, needed, .. } = side;
        let (image, bytes, needed) = (printable(image.as_bytes()), HumanBytes(*bytes), HumanBytes(*needed));
        let _ = writeln!(
            text,
            "{name}:          {engine}, {files} files, {bytes} ({needed} asked for), of {image}"
        );
    }
    let share = |side: &Side| if side.bytes == 0 { 100.0 } else { *both as f64 * 100.0 / side.bytes as f64 };
    let _ =
        writeln!(text, "in both:    {} ({:.1} % of A, {:.1} % of B)", HumanBytes(*both), share(a), share(b));
    for (name, side) in sides {
        let _ = writeln!(text, "only in {name}:  {}", HumanBytes(side.only_bytes()));
        for share in &side.only {
            let bytes = HumanBytes(share.bytes).to_string();
            let (kind, files, why) = (kind_name(share.kind), share.files, share.reason.explanation());
            let _ = writeln!(text, "  {bytes:>12}  {kind:<5}  {files:>5} files  {why}");
        }
    }
    if !files.is_empty() {
        let _ = writeln!(text, "files:      {:>12} {:>12} {:>12}", "only in A", "only in B", "both");
    }
    for file in files.iter().take(FILES) {
        let [one, two, both] =
            [file.only_a, file.only_b, file.both].map(|bytes| HumanBytes(bytes).to_string());
        let _ =
            writeln!(text, "            {one:>12} {two:>12} {both:>12}  {}", printable(file.path.as_bytes()));
    }
    if files.len() > FILES {
        let _ = writeln!(text, "            and {} more (--json has all)", files.len() - FILES);
    }
    text
}
