//! The list of metrics: name, kind, unit, stability, labels, where the value comes from. Names in it are promises; docs/metrics.md is made
//! of it.
//!
//! Everything is read at the moment of a scrape from counters that live elsewhere; nothing is registered or remembered.

use soci_core::registry::RequestKind;

pub use super::def::{Def, Kind, Now, Sources, Stability, Value};
use super::def::{gauge, labelled, plain, series};
use super::series::AS_SECONDS;
use super::stats::Counter;
use super::upstream::UPSTREAM;

/// All metrics: ours, then upstream's.
pub fn all() -> impl Iterator<Item = &'static Def> {
    OURS.iter().chain(UPSTREAM)
}

const OURS: &[Def] = &[
    plain("soci_registry_bytes_total", "Body bytes received from registries.", |s| {
        s.traffic.bytes_received()
    }),
    labelled(
        "soci_registry_requests_total",
        "Requests sent to registries, retries and redirects included.",
        "kind",
        |s| RequestKind::ALL.map(|kind| (kind.name(), s.traffic.requests(kind))).into(),
    ),
    plain("soci_registry_retries_total", "Requests repeated after a failure.", |s| s.traffic.retries()),
    labelled("soci_layers_total", "Image layers prepared, by the way they came.", "way", |s| {
        let counters = &s.counters;
        read(&[
            ("lazy", &counters.lazy_layers),
            ("whole", &counters.whole_layers),
            ("runtime", &counters.runtime_layers),
        ])
    }),
    labelled(
        "soci_layer_failures_total",
        "Ways of getting a layer that failed; the next way was tried.",
        "way",
        |s| {
            let counters = &s.counters;
            read(&[
                ("lazy", &counters.lazy_failures),
                ("whole", &counters.whole_failures),
                ("restore", &counters.restore_failures),
            ])
        },
    ),
    labelled(
        "soci_unlabelled_layers_total",
        "Image layers that could not be lazy, because the client did not say which they are.",
        "client",
        |s| s.counters.unlabelled.by_reason().map(|(reason, layers)| (reason.name(), layers)).into(),
    ),
    plain("soci_demand_spans_total", "Spans fetched because a reader waited.", |s| {
        s.stats.demand_spans.get()
    }),
    plain("soci_prefetch_spans_total", "Spans fetched because an artifact named them.", |s| {
        s.stats.prefetch_spans.get()
    }),
    plain("soci_background_spans_total", "Spans fetched in the background.", |s| {
        s.stats.background_spans.get()
    }),
    labelled(
        "soci_span_bytes_total",
        "Compressed bytes of fetched spans, by who wanted them.",
        "class",
        |s| {
            let stats = &s.stats;
            read(&[
                ("demand", &stats.demand_bytes),
                ("prefetch", &stats.prefetch_bytes),
                ("background", &stats.background_bytes),
            ])
        },
    ),
    plain("soci_span_requests_total", "Ranged requests of the fetch engine.", |s| {
        s.stats.fetch_requests.get()
    }),
    plain(
        "soci_spans_not_written_total",
        "Spans that could not be written to the cache, and were served from memory.",
        |s| s.stats.spans_not_written.get(),
    ),
    plain(
        "soci_reads_retried_total",
        "How often a read has asked again because of an error that may heal.",
        |s| s.stats.reads_retried.get(),
    ),
    plain("soci_span_failures_total", "Spans that could not be fetched.", |s| s.stats.span_failures.get()),
    plain("soci_span_digest_mismatches_total", "Downloads of spans with a wrong digest.", |s| {
        s.stats.span_digest_mismatches.get()
    }),
    plain("soci_prefetch_hits_total", "Spans that a reader found because prefetch had brought them.", |s| {
        s.stats.prefetch_hits.get()
    }),
    plain(
        "soci_pack_given_bytes_total",
        "Bytes of packs given to the kernel before it asked for them.",
        |s| s.stats.pack_given_bytes.get(),
    ),
    plain("soci_pack_hits_total", "Reads for which a working-set pack had brought bytes.", |s| {
        s.stats.pack_hits.get()
    }),
    plain("soci_pack_mismatches_total", "Spans whose bytes were not what a pack had brought.", |s| {
        s.stats.pack_mismatches.get()
    }),
    plain("soci_prefetch_artifacts_total", "Prefetch artifacts taken into the queue.", |s| {
        s.stats.prefetch_artifacts.get()
    }),
    plain("soci_prefetch_artifact_failures_total", "Prefetch artifacts that were skipped.", |s| {
        s.stats.prefetch_artifact_failures.get()
    }),
    plain("soci_packs_total", "Packs brought whole.", |s| s.stats.packs.get()),
    plain("soci_pack_failures_total", "Packs that were dropped or could not be fetched.", |s| {
        s.stats.pack_failures.get()
    }),
    plain("soci_pack_blocks_total", "Blocks of packs checked and written.", |s| s.stats.pack_blocks.get()),
    plain("soci_pack_bytes_total", "Bytes of packs received.", |s| s.stats.pack_bytes.get()),
    plain("soci_reads_total", "Reads of files of lazy layers that reached the daemon.", |s| {
        s.stats.reads.get()
    }),
    plain("soci_read_bytes_total", "Bytes given to those reads.", |s| s.stats.read_bytes.get()),
    plain("soci_read_cache_hits_total", "Reads answered from the cache.", |s| s.stats.read_cache_hits.get()),
    plain("soci_read_waits_total", "Reads that waited for a span.", |s| s.stats.read_waits.get()),
    plain("soci_read_wait_microseconds_total", "Time those reads waited.", |s| s.stats.read_wait_us.get()),
    plain("soci_read_failures_total", "Reads answered with an error.", |s| s.stats.read_failures.get()),
    plain("soci_lazy_layers_resolved_total", "Layers made ready to be mounted.", |s| {
        s.stats.layers_resolved.get()
    }),
    plain("soci_fuse_mounts_total", "FUSE mounts made, those of EROFS images included.", |s| {
        s.stats.fuse_mounts.get()
    }),
    plain("soci_erofs_mounts_total", "Layers mounted as EROFS images.", |s| s.stats.erofs_mounts.get()),
    plain(
        "soci_cache_given_back_bytes_total",
        "Cached bytes that were given back to make room on the disk.",
        |s| s.stats.cache_given_back_bytes.get(),
    ),
    gauge("soci_cache_bytes", "Bytes on disk that cached layers take.", |s| s.stats.cache_bytes.get()),
    gauge("soci_cache_disk_free_bytes", "Bytes that the file system of the cache has free.", |s| {
        s.stats.disk_free_bytes.get()
    }),
    plain("soci_fuse_mount_failures_total", "FUSE mounts that failed.", |s| {
        s.stats.fuse_mount_failures.get()
    }),
    plain("soci_caches_evicted_total", "Caches of unused layers that were taken away.", |s| {
        s.stats.caches_evicted.get()
    }),
    gauge("soci_healthy", "1 when /healthz says that all is well, else 0.", |s| u64::from(s.now.healthy)),
    series(
        "soci_lazy_layers",
        Kind::Gauge,
        Stability::Stable,
        "Lazy layers: mounted; waiting (mounted by an earlier process, readers wait); absent (nobody has wanted them since the start); dead (could not be served).",
        &["state"],
        |s, series| {
            let served = s.now.served;
            for (state, number) in [
                ("mounted", served.mounted),
                ("waiting", served.waiting),
                ("absent", served.absent),
                ("dead", served.dead),
            ] {
                series.number(&[("state", state)], number as u64);
            }
        },
    ),
    series(
        "soci_queue_length",
        Kind::Gauge,
        Stability::Stable,
        "What waits to be fetched ahead: spans (prefetch), layers (background), packs on their way (pack).",
        &["class"],
        |s, series| {
            let load = &s.now.load;
            for (class, number) in
                [("prefetch", load.prefetch), ("background", load.background), ("pack", load.packs)]
            {
                series.number(&[("class", class)], number as u64);
            }
        },
    ),
    series(
        "soci_host_requests",
        Kind::Gauge,
        Stability::Internal,
        "Requests out at a registry host: of readers, before (waiting) and after (receiving) their first byte; ahead of readers; free (of the slots for readers).",
        &["host", "state"],
        |s, series| {
            for host in &s.now.load.hosts {
                for (state, number) in [
                    ("waiting", host.demand_waiting),
                    ("receiving", host.demand_receiving),
                    ("ahead", host.ahead),
                    ("free", host.free),
                ] {
                    series.number(&[("host", &host.host), ("state", state)], number as u64);
                }
            }
        },
    ),
    series(
        "soci_prepare_seconds",
        Kind::Histogram,
        Stability::Stable,
        "Prepares of image layers, until their answer.",
        &[],
        |s, series| series.histogram(&[], &s.stats.prepares.get(), AS_SECONDS),
    ),
    series(
        "soci_first_byte_seconds",
        Kind::Histogram,
        Stability::Stable,
        "From the Prepare of a container until its first read that reached the snapshotter. Measured when somebody looks, at least every half minute.",
        &[],
        |s, series| series.histogram(&[], &s.stats.first_bytes.get(), AS_SECONDS),
    ),
    series(
        "soci_demand_wait_seconds",
        Kind::Histogram,
        Stability::Stable,
        "Waits of reads that found bytes missing.",
        &[],
        |s, series| series.histogram(&[], &s.stats.demand_waits.get(), AS_SECONDS),
    ),
];

fn read(counters: &[(&'static str, &Counter)]) -> Vec<(&'static str, u64)> {
    counters.iter().map(|(label, counter)| (*label, counter.get())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_say_what_they_count_and_differ() {
        let names: BTreeSet<_> = all().map(|def| def.name).collect();
        assert_eq!(names.len(), all().count());
        for def in all() {
            let name = def.name;
            assert!(name.starts_with("soci_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            let is_total = name.ends_with("_total");
            assert_eq!(is_total, def.kind == Kind::Counter && def.stability != Stability::Upstream, "{name}");
            assert!(def.help.ends_with('.'), "{name}");
        }
    }
}
