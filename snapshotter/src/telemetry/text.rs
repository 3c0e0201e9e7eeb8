//! The list of metrics as text: for Prometheus with its values, and as the page docs/metrics.md.

use std::fmt::Write as _;

use super::defs::{Def, Kind, Sources, Stability, Value, all};
use super::series::Series;

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// All metrics in the Prometheus text format, version 0.0.4.
pub fn prometheus(sources: &Sources) -> String {
    let mut text = String::new();
    for def in all() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {}", def.name, def.help, def.name, def.kind.name());
        let mut series = Series::new(def.name, &mut text);
        match def.value {
            Value::Plain(value) => series.number(&[], value(sources)),
            Value::Labelled { label, values } => {
                for (value, number) in values(sources) {
                    series.number(&[(label, value)], number);
                }
            }
            Value::Series { write, .. } => write(sources, &mut series),
        }
    }
    text
}

/// The page docs/metrics.md.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
        <!-- Made by `soci-snapshotter-grpc metrics > docs/metrics.md`. Do not edit. -->\n\n\
        The snapshotter serves these at `/metrics` of `metrics_address`, and always on its status socket ([operations](operations.md#looking-at-it)).\n\
        Counters begin at 0 with the process. A Grafana board is in `packaging/grafana/soci.json`.\n\n\
        * **stable**: name and meaning stay.\n\
        * **upstream**: name and meaning are those of the upstream snapshotter. Series of a layer end when nobody uses the layer any more.\n\
        * **internal**: looks into the engine, and may change with it.\n",
    );
    let parts = [
        ("## Of this snapshotter", Stability::Stable, Stability::Internal),
        ("## Upstream's", Stability::Upstream, Stability::Upstream),
    ];
    for (title, one, other) in parts {
        let _ = write!(
            page,
            "\n{title}\n\n| name | kind | unit | labels | stability | what |\n|---|---|---|---|---|---|\n"
        );
        for def in all().filter(|def| def.stability == one || def.stability == other) {
            let _ = writeln!(page, "{}", row(def));
        }
    }
    page.push_str(
        "\nOf upstream's operation types these have no meaning here, and are absent: `init_metadata_store`, `blob_redirect`, `get_layer_size`,\n\
        `background_fetch`, `ztoc_unmarshal`, `node_readdir`, `resolve_cache_hit`, `resolve_cache_miss`, `preresolve_queue_drop`, `fuse_failure_state`, and those\n\
        of single FUSE operations other than reads: the kernel answers for names and attributes by itself.\n",
    );
    page
}

fn row(def: &Def) -> String {
    let labels = match def.value {
        Value::Plain(_) => String::new(),
        Value::Labelled { label, .. } => format!("`{label}`"),
        Value::Series { labels, .. } => {
            labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ")
        }
    };
    let stability = match def.stability {
        Stability::Stable => "stable",
        Stability::Upstream => "upstream",
        Stability::Internal => "internal",
    };
    let (name, kind, unit, help) = (def.name, def.kind.name(), def.unit(), def.help);
    format!("| `{name}` | {kind} | {unit} | {labels} | {stability} | {help} |")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_text_has_every_metric_with_its_value() {
        let sources = Sources {
            traffic: Arc::default(),
            stats: Arc::default(),
            counters: Arc::default(),
            now: crate::telemetry::defs::Now::default(),
        };
        sources.stats.prefetch_spans.add(3);
        sources.counters.whole_layers.inc();
        let text = prometheus(&sources);
        assert!(text.contains("# TYPE soci_prefetch_spans_total counter\nsoci_prefetch_spans_total 3\n"));
        assert!(text.contains("soci_layers_total{way=\"whole\"} 1\n"));
        assert!(text.contains("soci_registry_requests_total{kind=\"range\"} 0\n"));
        assert!(text.contains("# TYPE soci_cache_bytes gauge\nsoci_cache_bytes 0\n"));
        assert!(text.contains("soci_lazy_layers{state=\"dead\"} 0\n"));
        assert!(all().all(|def| text.contains(&format!("# TYPE {} ", def.name))));
    }
}
