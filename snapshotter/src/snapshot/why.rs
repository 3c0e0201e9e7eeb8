//! Why a layer came as it did, and what to change, in words for people (`soci status`). Pairs are reason and advice.

/// Nothing to change.
pub(super) const LAZY: &str = "the index has a zTOC for it";
pub(super) const FINE: &str = "the image has fine indexes";
pub(super) const NOTHING_LAZY: (&str, &str) = (
    "[pull_modes.parallel_pull_unpack] is enabled: every layer is pulled whole",
    "set enable = false in [pull_modes.parallel_pull_unpack]",
);
pub(super) const SMALL: (&str, &str) =
    ("it is smaller than [snapshotter] min_layer_size", "lower min_layer_size in [snapshotter]");
pub(super) const NO_TABLE: (&str, &str) = (
    "the index has no zTOC for it: it was smaller than the --min-layer-size of its creation",
    "create the index with --min-layer-size 0, or with --fine and --pack",
);
pub(super) const ADVISED: (&str, &str) = (
    "the workload touches so much that a full pull is faster, says its index or pack",
    "set advice = false in [pack] to serve it lazily all the same",
);
pub(super) const NO_INDEX: (&str, &str) = (
    "no SOCI index was found for the image",
    "make one with soci convert, or with soci create and soci push and enable [pull_modes.soci_v1]; soci doctor IMAGE says what is there",
);
pub(super) const REGISTRY: &str = "check the registry and the credentials: soci doctor IMAGE";
pub(super) const LOG: &str =
    "the log of the snapshotter has the whole reason; soci doctor IMAGE checks the registry";
