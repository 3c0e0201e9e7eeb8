//! The page of a report: one file that needs nothing else, neither a network nor scripts.
//!
//! Holds no state. What must always hold: every text of a trace is escaped (maud does it for all that is not markup),
//! a content security policy forbids any script and style but those of this page and any request, and the size is
//! bounded: tables are cut with a word about it, long names in their middle.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use soci_core::digest::Digest;
use soci_core::trace::{End, Outcome};

use super::detail::Report;
use super::words::{NOT_MEASURED, bytes, count, percent, printable, shortened, time};
use super::{svg, tables};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("page.js");

/// Longest name of an image, longest command line.
const MAX_IMAGE: usize = 120;
const MAX_COMMAND: usize = 800;

/// A report as HTML.
pub fn page(report: &Report) -> String {
    let summary = &report.summary;
    let image = shortened(&printable(summary.image.as_bytes()), MAX_IMAGE);
    let policy =
        format!("default-src 'none'; style-src '{}'; script-src '{}'", source(STYLE), source(SCRIPT));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "What " (image) " reads – soci report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    (header(report, &image))
                    (warnings(report))
                    (figures(report))
                    section aria-labelledby="h-accesses" {
                        h2 id="h-accesses" { "Accesses over time" }
                        p.hint { "A row for each file, layer by layer, in the order of first need; stronger where there are more accesses. Point at a row to see its file." }
                        @if report.timeline.rows == 0 { p { "Nothing was read." } } @else { (svg::accesses(report)) }
                    }
                    section aria-labelledby="h-bytes" {
                        h2 id="h-bytes" { "Distinct bytes over time" }
                        p.hint { "What had to be there by when: a prefetch that stays above this line is never waited for." }
                        (svg::cumulative(report))
                    }
                    (tables::layers(report))
                    (tables::quantiles(summary))
                    div.pair { (tables::by_bytes(report)) (tables::by_wait(report)) }
                    (tables::tail_only(report))
                    (tables::processes(report))
                    footer { "soci report " (env!("CARGO_PKG_VERSION")) ". Times count from the start of the workload. Sizes are of uncompressed file content." }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
    .into_string()
}

/// How the policy names an inline script or style: the base64 of its SHA-256.
fn source(text: &str) -> String {
    let hex = Digest::of(text.as_bytes()).hex();
    let byte = |at| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let hash: Vec<u8> = (0..hex.len()).step_by(2).filter_map(byte).collect();
    format!("sha256-{}", STANDARD.encode(hash))
}

fn header(report: &Report, image: &str) -> Markup {
    let command = shortened(&printable(report.summary.argv.join(" ").as_bytes()), MAX_COMMAND);
    let short = |text: &str| shortened(&printable(text.as_bytes()), 80);
    html! {
        header {
            p.kicker { "soci report" }
            h1 { (image) }
            dl.facts {
                dt { "Command" } dd { code { (command) } }
                dt { "Recorded" } dd { (short(&report.started_at)) " with " (short(&report.engine)) }
                dt { "Ended" } dd { (ended(report.summary.end.as_ref())) }
                @if let Some(manifest) = &report.manifest {
                    dt { "Manifest" } dd { code { (manifest) } }
                }
            }
        }
    }
}

fn ended(end: Option<&End>) -> String {
    let Some(end) = end else { return "unknown: the end of the trace is missing".into() };
    let how = match end.outcome {
        Outcome::Ready => "the workload was ready",
        Outcome::Exited => "the workload ended by itself",
        Outcome::TimedOut => "the time limit passed before the workload was ready",
        Outcome::Interrupted => "stopped by the user",
    };
    let code = end.exit_code.map_or(String::new(), |code| format!(", exit code {code}"));
    format!("{how}{code}, after {}", time(end.ended_ns))
}

fn warnings(report: &Report) -> Markup {
    let dropped = report.summary.end.as_ref().map_or(0, |end| end.dropped);
    html! {
        @if let Some(good) = report.torn_after {
            p.warning role="note" { strong { "Torn trace. " } "The recorder did not finish; the file is cut after byte " (count(good)) ". What follows is what was written until then." }
        }
        @if dropped > 0 {
            p.warning role="note" { strong { "Incomplete. " } (count(dropped)) " accesses were seen but lost; all figures are too low." }
        }
    }
}

fn figures(report: &Report) -> Markup {
    let summary = &report.summary;
    let end = summary.end.as_ref();
    let ready = match end.map(|end| end.ready_ns) {
        Some(Some(ns)) => time(ns),
        Some(None) => "never".into(),
        None => "unknown".into(),
    };
    let before = summary.phases.setup.saturating_add(summary.phases.start);
    let image = summary.image_bytes.map(|whole| format!("{} of the image", percent(summary.bytes, whole)));
    let layers = summary.layers.iter().filter(|layer| layer.files > 0).count();
    let torn = if report.torn_after.is_some() { "torn" } else { "complete" };
    let dropped = end.map_or(0, |end| end.dropped);
    let note = if dropped > 0 { format!("{} lost", count(dropped)) } else { torn.into() };
    let figure = |name: &str, value: String, note: String| {
        html! { div { dt { (name) } dd { strong { (value) } span { (note) } } } }
    };
    html! {
        dl.figures aria-label="Key figures" {
            (figure("Ready after", ready, format!("recorded {}", time(end.map_or(report.timeline.span_ns, |end| end.ended_ns)))))
            (figure("Bytes read", bytes(summary.bytes), image.unwrap_or_else(|| "distinct".into())))
            (figure("Before READY", bytes(before), format!("{} of it", percent(before, summary.bytes))))
            (figure("Files", count(summary.files), format!("in {layers} of {} layers", summary.layers.len())))
            (figure("Accesses", count(summary.accesses), note))
            @match report.waited_ns {
                Some(waited) => (figure("Waited", time(waited), "over all requests".into())),
                None => (figure("Waited", NOT_MEASURED.into(), "this engine cannot".into())),
            }
        }
    }
}
