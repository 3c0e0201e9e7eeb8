//! Metrics of upstream: their names, with their meaning.

use super::def::{Def, Kind, Stability, series};
use super::series::{AS_MICROSECONDS, AS_MILLISECONDS};

/// The list.
pub(super) const UPSTREAM: &[Def] = &[
    series(
        "soci_fs_operation_duration_milliseconds",
        Kind::Histogram,
        Stability::Upstream,
        "Times of mount (a Prepare of an image layer), fuse_mount, remote_registry_get (until the header of a ranged request), soci_index_fetch and ztoc_fetch. The label layer is empty.",
        &["operation_type", "layer"],
        |s, series| {
            let stats = &s.stats;
            for (operation, times) in [
                ("mount", &stats.prepares),
                ("fuse_mount", &stats.mounts),
                ("remote_registry_get", &stats.range_requests),
                ("soci_index_fetch", &stats.index_fetches),
                ("ztoc_fetch", &stats.table_fetches),
            ] {
                let labels = [("operation_type", operation), ("layer", "")];
                series.histogram(&labels, &times.get(), AS_MILLISECONDS);
            }
        },
    ),
    series(
        "soci_fs_operation_duration_microseconds",
        Kind::Histogram,
        Stability::Upstream,
        "Times of synchronous_read: reads of a layer in use, with their waits.",
        &["operation_type", "layer"],
        |s, series| {
            for layer in &s.now.layers {
                let digest = layer.digest.to_string();
                let labels = [("operation_type", "synchronous_read"), ("layer", &*digest)];
                series.histogram(&labels, &layer.tally.read_times.get(), AS_MICROSECONDS);
            }
        },
    ),
    series(
        "soci_fs_operation_count",
        Kind::Counter,
        Stability::Upstream,
        "Counts of synchronous_read_count, synchronous_read_remote_registry_fetch_count (spans), background_span_fetch_count, background_span_fetch_failure_count (requests) and fuse_file_read_failure_count for each layer in use; of fuse_mount_failure_count, local_mount_failure_count and background_fetch_work_queue_evicted (always 0) for the node.",
        &["operation_type", "layer"],
        |s, series| {
            for (operation, number) in [
                ("fuse_mount_failure_count", s.counters.lazy_failures.get()),
                ("local_mount_failure_count", s.counters.whole_failures.get()),
                ("background_fetch_work_queue_evicted", 0),
            ] {
                series.number(&[("operation_type", operation), ("layer", "")], number);
            }
            for layer in &s.now.layers {
                let (digest, tally) = (layer.digest.to_string(), &layer.tally);
                for (operation, counter) in [
                    ("synchronous_read_count", &tally.reads),
                    ("synchronous_read_remote_registry_fetch_count", &tally.missed_spans),
                    ("background_span_fetch_count", &tally.background_spans),
                    ("background_span_fetch_failure_count", &tally.background_failures),
                    ("fuse_file_read_failure_count", &tally.read_failures),
                ] {
                    series.number(&[("operation_type", operation), ("layer", &*digest)], counter.get());
                }
            }
        },
    ),
    series(
        "soci_fs_bytes_served",
        Kind::Gauge,
        Stability::Upstream,
        "Bytes given to reads of a layer in use (synchronous_bytes_served).",
        &["operation_type", "layer"],
        |s, series| {
            for layer in &s.now.layers {
                let digest = layer.digest.to_string();
                let labels = [("operation_type", "synchronous_bytes_served"), ("layer", &*digest)];
                series.number(&labels, layer.tally.read_bytes.get());
            }
        },
    ),
    series(
        "soci_fs_image_operation_count_key",
        Kind::Gauge,
        Stability::Upstream,
        "Layers that the background has not completed (background_fetch_work_queue_size), now: upstream adds them up.",
        &["operation_type", "image"],
        |s, series| {
            let labels = [("operation_type", "background_fetch_work_queue_size"), ("image", "")];
            series.number(&labels, s.now.load.background as u64);
        },
    ),
    series(
        "soci_fs_layer_fetched_size_bytes",
        Kind::Counter,
        Stability::Upstream,
        "Bytes fetched of a layer in use, without those that came in packs. The label mountpoint is empty.",
        &["digest", "mountpoint"],
        |s, series| {
            for layer in &s.now.layers {
                let digest = layer.digest.to_string();
                series
                    .number(&[("digest", &*digest), ("mountpoint", "")], layer.tally.meter.bytes_received());
            }
        },
    ),
    series(
        "soci_fs_layer_size_bytes",
        Kind::Counter,
        Stability::Upstream,
        "Size of a layer in use, as the registry has it. The label mountpoint is empty.",
        &["digest", "mountpoint"],
        |s, series| {
            for layer in &s.now.layers {
                let digest = layer.digest.to_string();
                series.number(&[("digest", &*digest), ("mountpoint", "")], layer.blob);
            }
        },
    ),
];
