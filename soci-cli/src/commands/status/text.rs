//! The snapshotter's document for people: a line for the node, and some for each start.

use std::fmt::Write as _;

use super::document::{Bytes, Document, Layer, Start};

/// Letters of a digest that are shown.
const SHORT: usize = 19;

/// All of it.
pub(super) fn text(document: &Document) -> String {
    let mut text = String::new();
    let health = if document.healthy { "healthy" } else { "NOT HEALTHY" };
    let (layers, came) = (&document.layers, &document.came);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "snapshotter {}, up {}: {health}", document.release, time(document.up_s));
    for problem in &document.problems {
        let _ = writeln!(text, "  problem: {problem}");
    }
    let _ = writeln!(
        text,
        "lazy layers: {} mounted, {} waiting, {} not mounted, {} dead; layers came {} lazy, {} whole, {} by the runtime; cache {}, {} free",
        layers.mounted,
        layers.waiting,
        layers.absent,
        layers.dead,
        came.lazy,
        came.whole,
        came.runtime,
        size(document.cache_bytes),
        size(document.disk_free_bytes),
    );
    for told in &document.unlabelled {
        let (layers, client, advice) = (told.layers, &told.client, &told.advice);
        let _ = writeln!(
            text,
            "  {layers} layers not lazy: their client ({client}) does not say which they are\n    -> {advice}"
        );
    }
    for start in &document.starts {
        text.push('\n');
        one(&mut text, start);
    }
    if document.starts.is_empty() {
        text.push_str("\nno starts yet\n");
    }
    text
}

fn one(text: &mut String, start: &Start) {
    let _ = writeln!(text, "{} ({}): {}", start.image, short(&start.digest), start.phase);
    if let Some(container) = &start.container {
        let _ = writeln!(text, "  container  {container}, namespace {}", start.namespace);
    }
    let moments = [
        ("container asked", start.container_asked_ms.filter(|ms| *ms > 0)),
        ("mounted", start.mounted_ms),
        ("first read", start.first_byte_ms),
        ("pack here", start.pack_done_ms),
        ("quiet", start.quiet_ms),
    ];
    let moments = moments.into_iter().filter_map(|(what, ms)| Some((what, ms?)));
    let moments: Vec<_> = moments.map(|(what, ms)| format!("{what} +{:.3} s", ms as f64 / 1000.0)).collect();
    let _ = writeln!(text, "  asked      {} {}", start.asked, moments.join(", "));
    for pack in &start.packs {
        let workload = if pack.workload.is_empty() { "without a name" } else { &pack.workload };
        let _ = write!(
            text,
            "  pack       {workload} (by {}), {}, {}",
            pack.chosen_by,
            size(pack.size),
            pack.state
        );
        if let Some(failure) = &pack.failure {
            let _ = write!(text, ": {failure}");
        }
        let _ = writeln!(text, " ({})", short(&pack.digest));
    }
    if start.packs.is_empty() {
        text.push_str("  pack       none\n");
    }
    let _ = writeln!(text, "  bytes      {}", bytes(&start.bytes));
    let _ = writeln!(
        text,
        "  waits      {} ms for late bytes, {} ms for missed ones; {} reads of {}, {} requests",
        start.waits.late_ms,
        start.waits.missed_ms,
        start.reads,
        size(start.read_bytes),
        start.requests,
    );
    layers(text, &start.layers);
    if let Some(note) = &start.note {
        let _ = writeln!(text, "  note       {note}");
    }
}

fn bytes(bytes: &Bytes) -> String {
    let mut parts = vec![
        format!("hit {} (given to the kernel: {})", size(bytes.hit), size(bytes.handed)),
        format!("late {}", size(bytes.late)),
        format!("wasted {}", size(bytes.wasted)),
        format!("missed {}", size(bytes.missed)),
    ];
    for (what, number) in [("background", bytes.background), ("whole layers", bytes.whole)] {
        if number > 0 {
            parts.push(format!("{what} {}", size(number)));
        }
    }
    parts.push(format!("overhead {}", size(bytes.overhead)));
    format!("{} = {}", size(bytes.link), parts.join(" + "))
}

fn layers(text: &mut String, layers: &[Layer]) {
    let lazy = layers.iter().filter(|layer| layer.way == "lazy").count();
    let _ = writeln!(text, "  layers     {lazy} of {} lazy", layers.len());
    for layer in layers.iter().filter(|layer| layer.way != "lazy") {
        let _ = writeln!(text, "    {} {}: {}", short(&layer.digest), layer.way, layer.reason);
        if !layer.advice.is_empty() {
            let _ = writeln!(text, "      -> {}", layer.advice);
        }
    }
}

fn short(digest: &str) -> &str {
    digest.get(..SHORT).unwrap_or(digest)
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

fn time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_start_is_told_in_a_few_lines() {
        let document = json!({
            "release": "1.2.3", "up_s": 7260, "healthy": false, "problems": ["containerd does not answer"],
            "layers": {"mounted": 2}, "came": {"lazy": 2, "whole": 1}, "cache_bytes": 1_500_000,
            "unlabelled": [{"client": "cri", "layers": 3, "advice": "change it"}],
            "starts": [{
                "image": "r/app:1", "digest": format!("sha256:{}", "a".repeat(64)), "phase": "quiet",
                "container": "k8s.io/1/x", "namespace": "k8s.io", "asked": "2026-01-02T03:04:05Z",
                "mounted_ms": 20, "first_byte_ms": 31, "waits": {"late_ms": 4},
                "packs": [{"workload": "web", "chosen_by": "rule 1", "size": 5_200_000, "state": "failed", "failure": "gone"}],
                "bytes": {"link": 6000, "hit": 4000, "late": 500, "wasted": 500, "missed": 600, "overhead": 400},
                "layers": [
                    {"digest": "sha256:l", "way": "lazy"},
                    {"digest": "sha256:w", "way": "whole", "reason": "no zTOC", "advice": "make one"},
                ],
            }],
        });
        let text = text(&serde_json::from_value(document).unwrap());
        for line in [
            "snapshotter 1.2.3, up 2 h 1 min: NOT HEALTHY",
            "  problem: containerd does not answer",
            "  3 layers not lazy: their client (cri) does not say which they are",
            "    -> change it",
            "r/app:1 (sha256:aaaaaaaaaaaa): quiet",
            "  asked      2026-01-02T03:04:05Z mounted +0.020 s, first read +0.031 s",
            "  pack       web (by rule 1), 5.2 MB, failed: gone ()",
            "  bytes      6.0 kB = hit 4.0 kB (given to the kernel: 0 B) + late 500 B + wasted 500 B + missed 600 B + overhead 400 B",
            "  layers     1 of 2 lazy",
            "    sha256:w whole: no zTOC",
            "      -> make one",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in:\n{text}");
        }
        assert!(super::text(&Document::default()).ends_with("no starts yet\n"));
    }
}
