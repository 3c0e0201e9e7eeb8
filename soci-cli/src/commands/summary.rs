//! The summary of a recording as text.

use std::fmt::Write;
use std::time::Duration;

use indicatif::HumanBytes;
use recorder::report::{Quantiles, Summary};

/// Lines for people. `outside` are accesses to files that are not the image's, if known.
pub(crate) fn text(summary: &Summary, outside: Option<u64>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{:<12} {value}", format!("{name}:")); // a String takes everything
    };
    line("image", summary.image.clone());
    line("command", summary.argv.join(" "));
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
    for (at, layer) in summary.layers.iter().enumerate() {
        let share = share(layer.bytes, layer.content_bytes);
        let digest = &layer.digest.hex()[..12];
        line(
            &format!("layer {at}"),
            format!("{} files, {}{share}  {digest}", layer.files, HumanBytes(layer.bytes)),
        );
    }
    line("first need", quantiles(&summary.first_need_ns));
    line("wait", quantiles(&summary.wait_ns));
    let dropped = summary.end.as_ref().map_or(0, |end| end.dropped);
    let outside = outside.map_or(String::new(), |outside| format!(", {outside} outside the image"));
    line("accesses", format!("{} ({dropped} lost{outside})", summary.accesses));
    text
}

fn quantiles(quantiles: &Quantiles) -> String {
    let Quantiles { p50, p90, p99, max } = *quantiles;
    format!("p50 {}, p90 {}, p99 {}, max {}", time(p50), time(p90), time(p99), time(max))
}

/// A time with three digits.
fn time(ns: u64) -> String {
    let time = Duration::from_nanos(ns);
    match ns {
        0..1_000_000 => format!("{:.0} us", time.as_secs_f64() * 1e6),
        1_000_000..1_000_000_000 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}
