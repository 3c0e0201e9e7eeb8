//! The page and the board of metrics are those of the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use snapshotter::telemetry::defs::{Def, Kind, all};
use snapshotter::telemetry::text::markdown;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").join(name)
}

#[test]
fn the_page_of_metrics_is_current() {
    let page = fs::read_to_string(file("docs/metrics.md")).unwrap();
    assert!(page == markdown(), "docs/metrics.md is old: soci-snapshotter-grpc metrics > docs/metrics.md");
}

/// All queries in a board.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(text) if key == "expr" => found.push(text.clone()),
                    other => queries(other, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| queries(value, found)),
        _ => {}
    }
}

#[test]
fn the_board_asks_for_metrics_that_there_are() {
    let board: Value =
        serde_json::from_slice(&fs::read(file("packaging/grafana/soci.json")).unwrap()).unwrap();
    let mut asked = Vec::new();
    queries(&board, &mut asked);
    assert!(asked.len() >= 10, "{asked:?}");
    let series = |def: &Def| match def.kind {
        Kind::Histogram => {
            ["_bucket", "_sum", "_count"].map(|suffix| format!("{}{suffix}", def.name)).to_vec()
        }
        Kind::Counter | Kind::Gauge => vec![def.name.to_owned()],
    };
    let known: BTreeSet<String> = all().flat_map(series).collect();
    for query in &asked {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<_> = words.filter(|word| word.starts_with("soci_")).collect();
        assert!(!names.is_empty(), "{query}");
        for name in names {
            assert!(known.contains(name), "{name} in {query}");
        }
    }
}
