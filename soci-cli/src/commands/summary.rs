//! The summary of a recording as text.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::HumanBytes;
use planner::report::words::{NOT_MEASURED, printable};
use planner::report::{Quantiles, Stability, Summary};
use serde::Serialize;
use soci_core::trace::Outside;

/// A summary for programs.
#[derive(Debug, Serialize)]
pub(crate) struct Json {
    /// Of the trace.
    #[serde(flatten)]
    pub(crate) summary: Summary,
    /// Of the runs that were merged into it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stability: Option<Stability>,
    /// The files that were written, the trace first.
    pub(crate) written: Vec<PathBuf>,
}

/// Lines for people.
pub(crate) fn text(summary: &Summary) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{:<12} {value}", format!("{name}:")); // a String takes everything
    };
    line("image", printable(summary.image.as_bytes()));
    line("command", printable(summary.argv.join(" ").as_bytes()));
    if let Some(end) = &summary.end {
        let ready = end.ready_ns.map_or("never".to_owned(), time);
        line("ready", format!("{ready} (recorded {})", time(end.ended_ns)));
    }
    let share = |bytes: u64, whole: Option<u64>| match whole {
        Some(whole) if whole > 0 => {
            format!(" ({:.1} % of {})", bytes as f64 * 100.0 / whole as f64, HumanBytes(whole))
        }
        _ => String::new(),
    };
    let bytes = summary.bytes;
    line(
        "read",
        format!("{} files, {}{}", summary.files, HumanBytes(bytes), share(bytes, summary.image_bytes)),
    );
    if summary.opened_only > 0 {
        line("opened only", format!("{} files", summary.opened_only));
    }
    for (at, layer) in summary.layers.iter().enumerate() {
        let share = share(layer.bytes, layer.content_bytes);
        let digest = &layer.digest.hex()[..12];
        line(
            &format!("layer {at}"),
            format!("{} files, {}{share}  {digest}", layer.files, HumanBytes(layer.bytes)),
        );
    }
    line("first need", quantiles(&summary.first_need_ns));
    line("wait", summary.wait_ns.as_ref().map_or_else(|| NOT_MEASURED.to_owned(), quantiles));
    let dropped = summary.end.as_ref().map_or(0, |end| end.dropped);
    line("accesses", format!("{} ({dropped} lost)", summary.accesses));
    if let Some(outside) = summary.end.as_ref().and_then(|end| end.outside).filter(|all| all.total() > 0) {
        line("left out", left_out(&outside, summary.layers.is_empty()));
    }
    text
}

/// Accesses to files that are not the image's, or not below the directory, with the reasons that there are.
fn left_out(outside: &Outside, of_directory: bool) -> String {
    let (elsewhere, what) = if of_directory {
        ("of other files of this machine", "directory")
    } else {
        ("of other file systems", "image")
    };
    let reasons = [
        (outside.elsewhere, elsewhere),
        (outside.written, "of what the workload wrote"),
        (outside.deleted, "of deleted files"),
        (outside.unknown, "of unknown files"),
    ];
    let reasons = reasons.into_iter().filter(|(count, _)| *count > 0);
    let reasons: Vec<_> = reasons.map(|(count, reason)| format!("{count} {reason}")).collect();
    format!("{} outside the {what} ({})", outside.total(), reasons.join(", "))
}

/// Lines for people about the agreement of runs.
pub(crate) fn stability(stability: &Stability) -> String {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let order = match (stability.order, stability.worst_pair_order) {
        (Some(mean), Some(worst)) => {
            format!("rank correlation {mean:.2} over {} files, worst pair {worst:.2}", stability.common_files)
        }
        _ => "too few common files to compare".to_owned(),
    };
    format!(
        "{:<12} {} runs: {} of {} in all of them ({}), worst pair {}\n{:<12} {order}\n",
        "stability:",
        stability.runs,
        HumanBytes(stability.common_bytes),
        HumanBytes(stability.all_bytes),
        percent(stability.overlap),
        percent(stability.worst_pair_overlap),
        "order:",
    )
}

fn quantiles(quantiles: &Quantiles) -> String {
    let Quantiles { p50, p90, p99, max } = *quantiles;
    format!("p50 {}, p90 {}, p99 {}, max {}", time(p50), time(p90), time(p99), time(max))
}

/// A time with three digits.
pub(crate) fn time(ns: u64) -> String {
    let time = Duration::from_nanos(ns);
    match ns {
        0..1_000_000 => format!("{:.0} us", time.as_secs_f64() * 1e6),
        1_000_000..1_000_000_000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}
