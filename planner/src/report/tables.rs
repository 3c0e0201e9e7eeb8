//! The tables of a page: layers, quantiles, files, processes.
//!
//! Holds no state. What must always hold: a table that does not show everything says how much it leaves out; cells
//! that are sorted by something else than their text carry it as `data-v`.

use maud::{Markup, html};

use super::detail::{FileUse, Report};
use super::svg::{bar, colour, shares};
use super::words::{NOT_MEASURED, bytes, count, percent, shortened, time};
use super::{Quantiles, Summary};

/// Rows of a table of files or processes.
const TOP: usize = 20;
/// Rows of the table of layers: containerd allows 127 layers in an overlay.
const LAYERS: usize = 128;
const MAX_PATH: usize = 200;
const MAX_NAME: usize = 40;

/// The share of each layer.
pub(super) fn layers(report: &Report) -> Markup {
    let layers = &report.summary.layers;
    let total = report.summary.bytes;
    let content = layers.iter().any(|layer| layer.content_bytes.is_some());
    let mut parts: Vec<(String, String, u64)> = (0..)
        .zip(layers.iter().take(LAYERS))
        .map(|(at, layer)| (colour(Some(at)), format!("layer {at}: {}", bytes(layer.bytes)), layer.bytes))
        .collect();
    let known = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.2));
    let rest = total.saturating_sub(known);
    parts.push((colour(None), format!("unknown layer: {}", bytes(rest)), rest));
    html! {
        section aria-labelledby="h-layers" {
            h2 id="h-layers" { "Layers" }
            (shares("layers", "Share of each layer in what was read", &parts))
            table {
                thead { tr {
                    th scope="col" { "Layer" } th scope="col" { "Digest" }
                    th.n scope="col" { "Compressed" }
                    @if content { th.n scope="col" { "Content" } }
                    th.n scope="col" { "Files read" } th.n scope="col" { "Bytes read" }
                    @if content { th.n scope="col" { "Of content" } }
                    th scope="col" { "Share" }
                } }
                tbody {
                    @for (at, layer) in (0..).zip(layers.iter().take(LAYERS)) {
                        tr {
                            th scope="row" { svg.key viewBox="0 0 10 10" aria-hidden="true" { rect class=(colour(Some(at))) width="10" height="10" rx="2" {} } (at) }
                            td { code { (layer.digest.hex()[..12]) } }
                            (size(layer.compressed_size))
                            @if content { (size(layer.content_bytes.unwrap_or(0))) }
                            (number(layer.files)) (size(layer.bytes))
                            @if content { td.n { (percent(layer.bytes, layer.content_bytes.unwrap_or(0))) } }
                            td.share data-v=(layer.bytes) { (bar(&colour(Some(at)), layer.bytes, total)) " " (percent(layer.bytes, total)) }
                        }
                    }
                }
            }
            (left_out(layers.len(), LAYERS, "layers"))
        }
    }
}

/// First need and wait.
pub(super) fn quantiles(summary: &Summary) -> Markup {
    let row = |name: &str, quantiles: &Quantiles| {
        let Quantiles { p50, p90, p99, max } = *quantiles;
        html! { tr { th scope="row" { (name) } @for value in [p50, p90, p99, max] { td.n { (time(value)) } } } }
    };
    html! {
        section aria-labelledby="h-quantiles" {
            h2 id="h-quantiles" { "How soon, and how long" }
            table.fixed {
                thead { tr {
                    th scope="col" { "" }
                    @for name in ["Median", "90 %", "99 %", "Largest"] { th.n scope="col" { (name) } }
                } }
                tbody {
                    (row("First need, from the start", &summary.first_need_ns))
                    @match &summary.wait_ns {
                        Some(waits) => (row("Wait of a request", waits)),
                        None => tr { th scope="row" { "Wait of a request" } td.n colspan="4" { (NOT_MEASURED) } },
                    }
                }
            }
        }
    }
}

/// Files of which most was read.
pub(super) fn by_bytes(report: &Report) -> Markup {
    let files = top(&report.files, |file| file.bytes);
    let largest = files.first().map_or(0, |file| file.bytes);
    html! {
        section aria-labelledby="h-by-bytes" {
            h2 id="h-by-bytes" { "Files by bytes" }
            table {
                thead { tr { th scope="col" { "File" } th.n scope="col" { "Bytes" } th scope="col" { span.unseen { "Share" } } th.n scope="col" { "First need" } } }
                tbody { @for file in &files { tr {
                    (path(file)) (size(file.bytes))
                    td data-v=(file.bytes) { (bar(&colour(file.layer), file.bytes, largest)) }
                    (duration(file.first_need_ns))
                } } }
            }
            (left_out(report.files.len(), TOP, "files"))
        }
    }
}

/// Files that were waited for most.
pub(super) fn by_wait(report: &Report) -> Markup {
    let wait = |file: &FileUse| file.wait_ns.unwrap_or(0);
    let files = top(&report.files, wait);
    let largest = files.first().map_or(0, |file| wait(file));
    html! {
        section aria-labelledby="h-by-wait" {
            h2 id="h-by-wait" { "Files by wait" }
            @if report.waited_ns.is_none() {
                p { "Not measured: this engine does not know how long a read waited. --engine fuse does." }
            } @else if report.waited_ns == Some(0) { p { "No wait was recorded." } } @else {
                table {
                    thead { tr { th scope="col" { "File" } th.n scope="col" { "Wait" } th scope="col" { span.unseen { "Share" } } th.n scope="col" { "Accesses" } } }
                    tbody { @for file in &files { tr {
                        (path(file)) (duration(wait(file)))
                        td data-v=(wait(file)) { (bar(&colour(file.layer), wait(file), largest)) }
                        (number(file.accesses))
                    } } }
                }
                (left_out(report.files.len(), TOP, "files"))
            }
        }
    }
}

/// What was read, but not before the workload was ready.
pub(super) fn tail_only(report: &Report) -> Markup {
    let files: Vec<&FileUse> = report.tail_only().collect();
    let whole = report.summary.phases.tail;
    let of_files = files.iter().fold(0u64, |sum, file| sum.saturating_add(file.bytes));
    html! {
        section aria-labelledby="h-tail" {
            h2 id="h-tail" { "Not needed before READY" }
            @if whole == 0 && files.is_empty() {
                p { "Everything that was read was needed before READY, or the recording has no tail." }
            } @else {
                p { (bytes(whole)) " (" (percent(whole, report.summary.bytes)) ") were first needed after READY, "
                    (bytes(of_files)) " of them in " (count(files.len() as u64)) @if files.len() == 1 { " file that was" } @else { " files that were" } " not touched before. They may come late." }
                table {
                    thead { tr { th scope="col" { "File" } th.n scope="col" { "Bytes" } th.n scope="col" { "First need" } } }
                    tbody { @for file in top(files.iter().copied(), |file| file.bytes) { tr {
                        (path(file)) (size(file.bytes)) (duration(file.first_need_ns))
                    } } }
                }
                (left_out(files.len(), TOP, "files"))
            }
        }
    }
}

/// Who read.
pub(super) fn processes(report: &Report) -> Markup {
    let total = report.summary.bytes;
    html! {
        section aria-labelledby="h-processes" {
            h2 id="h-processes" { "Processes" }
            p.hint { "Bytes count for the process that needed them first." }
            table {
                thead { tr {
                    th scope="col" { "Process" } th.n scope="col" { "PID" } th.n scope="col" { "Accesses" }
                    th.n scope="col" { "Bytes" } th.n scope="col" { "Wait" } th scope="col" { "Share" }
                } }
                tbody { @for process in report.processes.iter().take(TOP) { tr {
                    th scope="row" { code { (shortened(&process.name, MAX_NAME)) } }
                    td.n data-v=(process.pid) { @if process.pid == 0 { "–" } @else { (process.pid) } }
                    (number(process.accesses)) (size(process.bytes))
                    @match process.wait_ns { Some(wait) => (duration(wait)), None => td.n data-v="0" { "–" } }
                    td.share data-v=(process.bytes) { (bar("l0", process.bytes, total)) " " (percent(process.bytes, total)) }
                } } }
            }
            (left_out(report.processes.len(), TOP, "processes"))
        }
    }
}

/// The files with the most of something, at most [`TOP`].
fn top<'a>(files: impl IntoIterator<Item = &'a FileUse>, by: impl Fn(&FileUse) -> u64) -> Vec<&'a FileUse> {
    let mut files: Vec<&FileUse> = files.into_iter().collect();
    files.sort_by_key(|file| std::cmp::Reverse(by(file)));
    files.truncate(TOP);
    files
}

fn path(file: &FileUse) -> Markup {
    html! { th.path scope="row" { code { (shortened(&file.path, MAX_PATH)) } } }
}

fn size(value: u64) -> Markup {
    html! { td.n data-v=(value) { (bytes(value)) } }
}

fn duration(ns: u64) -> Markup {
    html! { td.n data-v=(ns) { (time(ns)) } }
}

fn number(value: u64) -> Markup {
    html! { td.n data-v=(value) { (count(value)) } }
}

fn left_out(all: usize, shown: usize, what: &str) -> Markup {
    html! { @if all > shown { p.hint { "and " (count((all - shown) as u64)) " more " (what) } } }
}
