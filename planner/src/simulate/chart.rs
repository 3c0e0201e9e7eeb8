//! A drawing of a table: a bar for each start, by link, and the bound as a line. As wide as the longest start.

use maud::{Markup, PreEscaped, html};

use super::table::Row;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 170.0;
const BAR: f64 = 18.0;
const GAP: f64 = 26.0;
const STYLE: &str = "text{font:12px sans-serif;fill:#222}.head{font-weight:bold}.full{fill:#9aa5b1}.lazy{fill:#d98e4a}\
    .prefetch{fill:#5b8bd0}.pack{fill:#3f9b6b}.bound{stroke:#b3261e;stroke-width:2}";

/// The drawing, an SVG document.
pub fn chart(rows: &[Row]) -> String {
    let bars = |row: &Row| row.starts.len() as f64 * BAR;
    let height = rows.iter().map(|row| bars(row) + GAP).sum::<f64>() + 30.0;
    let times =
        rows.iter().flat_map(|row| row.starts.iter().map(|(_, start)| start.ready).chain([row.bound.ready]));
    let longest = times.filter(|time| time.is_finite()).fold(1e-3, f64::max);
    let x = |seconds: f64| LEFT + seconds.min(longest) / longest * (WIDTH - LEFT - 80.0);
    let tops = rows.iter().scan(0.0, |top, row| {
        let this = *top;
        *top += bars(row) + GAP;
        Some(this)
    });
    let tops: Vec<f64> = tops.collect();
    let drawing: Markup = html! {
        svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc" viewBox=(format!("0 0 {WIDTH} {height}")) {
            title id="title" { "Predicted seconds until ready" }
            desc id="desc" { "A bar for each way to start, by link. The line is the physical bound." }
            style { (PreEscaped(STYLE)) }
            @for (row, top) in rows.iter().zip(tops) {
                text.head x="8" y=(top + 17.0) { (row.link) }
                @for (at, (mode, start)) in row.starts.iter().enumerate() {
                    @let y = top + 22.0 + at as f64 * BAR;
                    text x=(LEFT - 10.0) y=(y + 12.0) text-anchor="end" { (mode.name()) }
                    rect class=(mode.name()) x=(LEFT) y=(y) height=(BAR - 4.0) width=(format!("{:.1}", x(start.ready) - LEFT)) {}
                    text x=(format!("{:.1}", x(start.ready) + 6.0)) y=(y + 12.0) { (format!("{:.2} s", start.ready)) }
                }
                line.bound x1=(format!("{:.1}", x(row.bound.ready))) x2=(format!("{:.1}", x(row.bound.ready))) y1=(top + 20.0)
                    y2=(top + 20.0 + bars(row)) { title { (format!("bound {:.2} s", row.bound.ready)) } }
            }
        }
    };
    drawing.into_string()
}
