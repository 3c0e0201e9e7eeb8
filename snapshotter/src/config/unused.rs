//! Keys of upstream that have no meaning here, and why. They are accepted without a word; `config check` lists them.
//!
//! Holds no state. A key is here or in a table's struct, or in both: then it is read, and nothing goes by it.

/// A key that nothing goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unused {
    /// The key with its table. All keys of a table that has this name are meant.
    pub key: &'static str,
    /// Why.
    pub reason: &'static str,
}

const NO_SUCH_CACHE: &str = "bytes are cached in sparse files; the page cache is the memory cache";
const NO_DATABASE: &str = "a layer's tree comes from its index; no database of files is kept";
const READS_ASK_AGAIN: &str = "reads ask again until blob.fetching_timeout_sec is nearly over";
const ONE_RANGE: &str = "a request always has one range";
const NOT_CHECKED_AHEAD: &str = "a registry is asked when bytes are needed, not before";
const BY_ENGINE: &str = "one engine orders all fetches; nothing is dropped from its queue";

/// All of them, with those of earlier releases.
pub(super) const UNUSED: &[Unused] = &[
    of("http_cache_type", NO_SUCH_CACHE),
    of("filesystem_cache_type", NO_SUCH_CACHE),
    of("directory_cache", NO_SUCH_CACHE),
    of("resolve_result_entry", "layers are kept as long as they are used, whatever their number"),
    of("debug", "--log-level trace tells more"),
    of("disable_verification", "every span and block is checked, always"),
    of("max_concurrency", "all layers of an image are looked up at once, from its index"),
    of("fuse_metrics_emit_wait_duration_sec", "counters are up to date at any time"),
    of("debug_address", "there is no profiler"),
    of("metadata_store", NO_DATABASE),
    of("metadata_db_no_sync", NO_DATABASE),
    of("metadata_insertion_chunk_size", NO_DATABASE),
    of("skip_check_snapshotter_supported", "nothing is probed at the start"),
    of("blob.valid_interval", NOT_CHECKED_AHEAD),
    of("blob.check_always", NOT_CHECKED_AHEAD),
    of("blob.force_single_range_mode", ONE_RANGE),
    of("blob.max_retries", READS_ASK_AGAIN),
    of("blob.min_wait_msec", READS_ASK_AGAIN),
    of("blob.max_wait_msec", READS_ASK_AGAIN),
    of("fuse.log_fuse_operations", "--log-level trace tells more"),
    of("background_fetch.max_queue_size", BY_ENGINE),
    of("background_fetch.drop_policy", BY_ENGINE),
    of("background_fetch.emit_metric_period_sec", "counters are up to date at any time"),
    of("content_store.namespace", "the namespace is that of each request"),
    of("pull_modes.parallel_pull_unpack.discard_unpacked_layers", "compressed layers are never kept"),
    of(
        "pull_modes.parallel_pull_unpack.decompress_streams",
        "layers are inflated in the process; no program is run for it",
    ),
    of("resolver.enable_auth_client_sharing", "tokens are always shared by the images of a repository"),
    of(
        "snapshotter.allow_invalid_mounts_on_restart",
        "a layer that cannot be restored never stops the daemon",
    ),
];

/// Of `content_store.type`, one value.
pub(super) const CONTENT_STORE: Unused = of(
    "content_store.type",
    "indexes and zTOCs are kept in the daemon's own store, whatever store images are in",
);

const fn of(key: &'static str, reason: &'static str) -> Unused {
    Unused { key, reason }
}
