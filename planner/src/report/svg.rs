//! The drawings of a page: accesses over time, distinct bytes over time, shares.
//!
//! Holds no state; colours are classes of the style sheet. What must always hold: the size of a drawing is bounded by
//! its pixels, not by the trace, and each has a title and a description for those who cannot see it.

use std::fmt::Write;

use maud::{Markup, html};

use super::detail::{FileUse, Report};
use super::timeline::{COLUMNS, row_of};
use super::words::{bytes, count, shortened, time};

const WIDTH: f64 = 1120.0;
const LEFT: f64 = 210.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 26.0;
const CELL: f64 = 2.0;
const PLOT: f64 = CELL * COLUMNS as f64;
/// Up to this many rows, each has its name beside it.
const NAMED_ROWS: usize = 40;
/// Shades of a cell, by its number of accesses.
const SHADES: u64 = 4;
/// Colours of layers in the style sheet.
const COLOURS: u32 = 8;

/// The class with the colour of a layer.
pub(super) fn colour(layer: Option<u32>) -> String {
    layer.map_or("lx".into(), |layer| format!("l{}", layer % COLOURS))
}

/// Which files were read when.
pub(super) fn accesses(report: &Report) -> Markup {
    let timeline = &report.timeline;
    let rows = rows(&report.files, timeline.rows);
    let named = rows.len() <= NAMED_ROWS;
    let step = if named { 15.0 } else { (600.0 / rows.len() as f64).max(3.5) };
    let height = step * rows.len().max(1) as f64;
    let pen = format!("{:.1}", step - if named { 3.0 } else { 0.4 });
    let describe = format!(
        "{} accesses to {} files in {}, a row for each file, grouped by layer, darker where there are more.",
        report.summary.accesses,
        report.files.len(),
        time(timeline.span_ns)
    );
    html! {
        svg.chart role="img" aria-labelledby="accesses-title accesses-desc"
            viewBox=(format!("0 0 {WIDTH} {}", height + TOP + BOTTOM)) {
            title id="accesses-title" { "Accesses over time, by layer and file" }
            desc id="accesses-desc" { (describe) }
            (tail(report, height))
            (time_axis(timeline.span_ns, height))
            @for (at, row) in rows.iter().enumerate() {
                @let y = TOP + at as f64 * step;
                @if named {
                    text.name x=(LEFT - 14.0) y=(y + step * 0.75) { (shortened(&row.first.path, 28)) }
                }
                rect class=(colour(row.first.layer)) x=(LEFT - 9.0) y=(y) width="5" height=(step) {}
                @for (shade, strokes) in strokes(timeline.row(at)) {
                    path class=(format!("heat {} h{shade}", colour(row.first.layer))) stroke-width=(pen)
                        d=(format!("M{LEFT} {:.1}{strokes}", y + step / 2.0)) {}
                }
                rect.row x="0" y=(y) width=(LEFT + PLOT) height=(step) { title { (row.words()) } }
            }
            @if !named { (layer_names(&rows, step)) }
            (ready(report, height))
        }
    }
}

/// The files that share a row.
struct Row<'a> {
    first: &'a FileUse,
    files: u64,
    accesses: u64,
    bytes: u64,
}

impl Row<'_> {
    fn words(&self) -> String {
        let Self { first, files, accesses, bytes: sum } = self;
        let more = if *files > 1 { format!(" and {} more files", files - 1) } else { String::new() };
        let layer = first.layer.map_or("unknown layer".into(), |layer| format!("layer {layer}"));
        let (path, first) = (shortened(&first.path, 160), time(first.first_need_ns));
        format!("{path}{more}\n{layer}, first need {first}, {} in {} accesses", bytes(*sum), count(*accesses))
    }
}

fn rows(files: &[FileUse], number: usize) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::with_capacity(number);
    for (place, file) in files.iter().enumerate() {
        match rows.get_mut(row_of(place, files.len())) {
            Some(row) => {
                row.files += 1;
                row.accesses += file.accesses;
                row.bytes = row.bytes.saturating_add(file.bytes);
            }
            None => rows.push(Row { first: file, files: 1, accesses: file.accesses, bytes: file.bytes }),
        }
    }
    rows
}

/// One path for each shade of a row, drawn with a pen as thick as the row; neighbouring bins of one shade are one
/// stroke.
fn strokes(cells: &[u64]) -> Vec<(u64, String)> {
    let mut paths: Vec<(String, usize)> = vec![(String::new(), 0); SHADES as usize + 1];
    let mut column = 0;
    while column < cells.len() {
        let shade = shade(cells[column]);
        let run = cells[column..].iter().take_while(|&&cell| self::shade(cell) == shade).count();
        if shade > 0 {
            let (path, pen) = &mut paths[shade as usize];
            let (skip, width) = ((column - *pen) as f64 * CELL, run as f64 * CELL);
            let _ = write!(path, "m{skip} 0h{width}");
            *pen = column + run;
        }
        column += run;
    }
    (0..).zip(paths).map(|(shade, (path, _))| (shade, path)).filter(|(_, path)| !path.is_empty()).collect()
}

/// None for no access; each shade stands for four times as many as the one before.
fn shade(accesses: u64) -> u64 {
    if accesses == 0 { 0 } else { u64::from(accesses.ilog2() / 2 + 1).min(SHADES) }
}

/// Names of the layers at the middle of their rows, where there is room.
fn layer_names(rows: &[Row<'_>], step: f64) -> Markup {
    let mut bands: Vec<(Option<u32>, usize, usize)> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        match bands.last_mut() {
            Some((layer, _, end)) if *layer == row.first.layer => *end = at + 1,
            _ => bands.push((row.first.layer, at, at + 1)),
        }
    }
    html! {
        @for (layer, start, end) in bands {
            @if (end - start) as f64 * step >= 12.0 {
                text.name x=(LEFT - 14.0) y=(TOP + (start + end) as f64 / 2.0 * step + 4.0) {
                    @match layer { Some(layer) => { "layer " (layer) }, None => { "layer unknown" } }
                }
            }
        }
    }
}

/// Distinct bytes over time.
pub(super) fn cumulative(report: &Report) -> Markup {
    const HEIGHT: f64 = 220.0;
    let timeline = &report.timeline;
    let total = timeline.cumulative_bytes.last().copied().unwrap_or(0);
    let y = |value: u64| TOP + HEIGHT * (1.0 - value as f64 / total.max(1) as f64);
    let mut line = format!("M{LEFT} {:.1}", y(0));
    for (column, &value) in timeline.cumulative_bytes.iter().enumerate() {
        let _ = write!(line, "V{:.1}H{}", y(value), LEFT + (column + 1) as f64 * CELL);
    }
    let area = format!("{line}V{:.1}H{LEFT}z", y(0));
    let describe = format!("{} were read until {}.", bytes(total), time(timeline.span_ns));
    html! {
        svg.chart role="img" aria-labelledby="bytes-title bytes-desc"
            viewBox=(format!("0 0 {WIDTH} {}", HEIGHT + TOP + BOTTOM)) {
            title id="bytes-title" { "Distinct bytes over time" }
            desc id="bytes-desc" { (describe) }
            @for value in byte_ticks(total) {
                line.grid x1=(LEFT) x2=(LEFT + PLOT) y1=(y(value)) y2=(y(value)) {}
                text.name x=(LEFT - 14.0) y=(y(value) + 4.0) { (bytes(value)) }
            }
            (tail(report, HEIGHT))
            (time_axis(timeline.span_ns, HEIGHT))
            path.area d=(area) {}
            path.line d=(line) {}
            @for column in (0..COLUMNS).step_by(5) {
                @let end = (column + 4).min(COLUMNS - 1);
                rect.row x=(LEFT + column as f64 * CELL) y=(TOP) width=(5.0 * CELL) height=(HEIGHT) {
                    title { (time(timeline.end_of(end))) ": " (bytes(timeline.cumulative_bytes[end])) }
                }
            }
            (ready(report, HEIGHT))
        }
    }
}

/// Up to five round numbers of bytes, and zero.
fn byte_ticks(total: u64) -> impl Iterator<Item = u64> {
    let mut step = 1u64;
    while total / step > 5 {
        step <<= 1;
    }
    (0..=total / step).map(move |tick| tick * step)
}

/// Lines and names of round times.
fn time_axis(span_ns: u64, height: f64) -> Markup {
    let bottom = TOP + height;
    html! {
        @for tick in time_ticks(span_ns) {
            @let x = x_of(tick, span_ns);
            line.grid x1=(x) x2=(x) y1=(TOP) y2=(bottom) {}
            text.tick x=(x) y=(bottom + 17.0) { (tick_words(tick)) }
        }
        line.axis x1=(LEFT) x2=(LEFT + PLOT) y1=(bottom) y2=(bottom) {}
    }
}

/// Up to ten round times from zero on.
fn time_ticks(span_ns: u64) -> Vec<u64> {
    let powers = (0..20).filter_map(|power| 10u64.checked_pow(power));
    let mut steps = powers.flat_map(|power| [1, 2, 5].map(|times| power.saturating_mul(times)));
    let step = steps.find(|step| span_ns / step <= 9).unwrap_or(u64::MAX);
    (0..=span_ns / step).map(|tick| tick * step).collect()
}

fn tick_words(ns: u64) -> String {
    match ns {
        0 => "0".into(),
        1..1_000_000 => format!("{} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{} ms", ns as f64 / 1e6),
        _ => format!("{} s", ns as f64 / 1e9),
    }
}

fn x_of(ns: u64, span_ns: u64) -> f64 {
    let x = LEFT + PLOT * (ns as f64 / span_ns.max(1) as f64).min(1.0);
    (x * 10.0).round() / 10.0
}

/// A tint behind what happens after readiness.
fn tail(report: &Report, height: f64) -> Markup {
    let x = ready_ns(report).map_or(LEFT + PLOT, |ns| x_of(ns, report.timeline.span_ns));
    html! { rect.tail x=(x) y=(TOP) width=(format!("{:.1}", LEFT + PLOT - x)) height=(height) {} }
}

fn ready_ns(report: &Report) -> Option<u64> {
    report.summary.end.as_ref().and_then(|end| end.ready_ns)
}

/// The moment of readiness.
fn ready(report: &Report, height: f64) -> Markup {
    let Some(ns) = ready_ns(report) else { return html! {} };
    let x = x_of(ns, report.timeline.span_ns);
    // Beside the line, on the side with more room.
    let (anchor, beside) = if x > LEFT + PLOT / 2.0 { ("end", -6.0) } else { ("start", 6.0) };
    html! {
        line.ready x1=(x) x2=(x) y1="6" y2=(TOP + height) {}
        text.ready x=(x + beside) y="17" text-anchor=(anchor) { "READY " (time(ns)) }
    }
}

/// Parts of a whole side by side: (class, words, size).
pub(super) fn shares(id: &str, name: &str, parts: &[(String, String, u64)]) -> Markup {
    let total = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.2)).max(1) as f64;
    let mut x = 0.0;
    let boxes: Vec<_> = parts
        .iter()
        .filter(|part| part.2 > 0)
        .map(|(class, words, size)| {
            let (start, width) = (x, WIDTH * *size as f64 / total);
            x += width;
            (class, words, start, width)
        })
        .collect();
    html! {
        svg.chart role="img" aria-labelledby=(format!("{id}-title {id}-desc")) viewBox=(format!("0 0 {WIDTH} 34")) {
            title id=(format!("{id}-title")) { (name) }
            desc id=(format!("{id}-desc")) {
                @for (_, words, _) in parts.iter().filter(|part| part.2 > 0).take(20) { (words) "; " }
            }
            @for (class, words, start, width) in boxes {
                rect class=(class) x=(format!("{start:.1}")) y="2" rx="2" height="30"
                    width=(format!("{:.1}", (width - 2.0).max(0.5))) { title { (words) } }
                @if width > 90.0 {
                    text.inside x=(format!("{:.1}", start + 10.0)) y="21" { (shortened(words, (width / 8.0) as usize)) }
                }
            }
        }
    }
}

/// A small bar in a cell of a table.
pub(super) fn bar(class: &str, part: u64, whole: u64) -> Markup {
    let width = 100.0 * (part as f64 / whole.max(1) as f64).min(1.0);
    html! {
        svg.bar viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true" {
            rect.back x="0" y="0" width="100" height="8" rx="2" {}
            rect class=(class) x="0" y="0" width=(format!("{width:.1}")) height="8" rx="2" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strokes_cover_each_bin_in_its_shade() {
        let mut cells = vec![0; 8];
        (cells[1], cells[2], cells[4], cells[7]) = (1, 3, 1, 1000);
        let want = [(1, "m2 0h4m2 0h2".to_owned()), (4, "m14 0h2".to_owned())];
        assert_eq!(strokes(&cells), want);
        assert!(strokes(&[0; 5]).is_empty());
    }

    #[test]
    fn ticks_are_few_and_round() {
        assert_eq!(time_ticks(0), [0]);
        assert_eq!(time_ticks(7), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(time_ticks(2_400_000_000).last(), Some(&2_000_000_000));
        assert!(time_ticks(u64::MAX).len() <= 11);
        assert_eq!(byte_ticks(0).collect::<Vec<_>>(), [0]);
        assert_eq!(byte_ticks(5000).collect::<Vec<_>>(), [0, 1024, 2048, 3072, 4096]);
        assert!(byte_ticks(u64::MAX).count() <= 6);
    }
}
