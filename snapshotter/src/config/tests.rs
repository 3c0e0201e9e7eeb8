//! The configuration file, as its writers see it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use soci_core::digest::Digest;

use super::{Config, ConfigError, StoreType, load, parse};

fn config(text: &str) -> Config {
    let loaded = parse(text, Path::new("config.toml")).unwrap();
    assert_eq!(loaded.unknown_keys, Vec::<String>::new());
    loaded.config
}

fn error(text: &str) -> String {
    let error = parse(text, Path::new("config.toml")).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

#[test]
fn an_empty_file_is_the_defaults_and_the_defaults_are_a_file() {
    assert_eq!(config(""), Config::default());
    assert_eq!(config(&Config::default().to_toml().unwrap()), Config::default());
}

#[test]
fn keys_of_upstream_mean_what_they_mean_there() {
    let config = config(
        r#"
        mount_timeout_sec = 5
        metrics_address = "127.0.0.1:1"
        [http]
        MaxRetries = -1
        MinWaitMsec = 7
        [blob]
        max_span_verification_retries = -1
        [content_store]
        type = "containerd"
        [prefetch]
        enable = false
        max_concurrency = -4
        [pull_modes.soci_v1]
        enable = true
        [pull_modes.parallel_pull_unpack]
        enable = true
        concurrent_download_chunk_size = "1.5 MB"
        [snapshotter]
        min_layer_size = 100
        [[resolver.host."docker.io".mirrors]]
        host = "https://mirror.example:5000"
        "#,
    );
    assert_eq!(config.mount_timeout(), Duration::from_secs(5));
    assert_eq!(config.http.retries(), 0);
    assert_eq!(config.http.min_wait(), Duration::from_millis(7));
    assert_eq!(config.http.dial_timeout(), Duration::from_secs(3));
    assert_eq!(config.blob.span_verification_retries(), 3);
    assert_eq!(config.content_store.kind, StoreType::Containerd);
    assert!(!config.prefetch.enable);
    assert_eq!(config.prefetch.layers(), 0);
    assert!(config.pull_modes.soci_v1.enable && config.pull_modes.soci_v2.enable);
    assert_eq!(config.pull_modes.parallel_pull_unpack.chunk_size(), Some(3 << 19));
    assert_eq!(config.snapshotter.min_layer_size(), 100);
    assert_eq!(config.resolver.host["docker.io"].mirrors[0].host, "https://mirror.example:5000");
}

#[test]
fn companions_are_on_within_a_limit_and_digests_are_digests() {
    let pack = config("[pack]\nmax_bytes = 0").pack;
    assert!(pack.enable && pack.fine && !pack.require_verified);
    assert_eq!((pack.limit(), pack.workload.as_str()), (1 << 30, ""));

    let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
    let all = config(&format!(
        "[pack]\nenable = false\nfine = false\nmax_bytes = 7\nrequire_verified = true\n\
         verified = [\"{one}\", \"{other}\", \"{one}\"]\nworkload = \"serve\""
    ));
    let pack = &all.pack;
    assert!(!pack.enable && !pack.fine && pack.require_verified);
    assert_eq!((pack.limit(), pack.workload.as_str()), (7, "serve"));
    assert_eq!(pack.verified, BTreeSet::from([one, other]));
    assert_eq!(config(&all.to_toml().unwrap()), all);

    assert!(error("[pack]\nmax_bytes = -1").contains("pack.max_bytes"));
    assert!(error("[pack]\nverified = [\"sha256:12\"]").contains("sha256:12"));
    assert!(error("[pack]\nverified = \"none\"").contains("verified"));
}

#[test]
fn zero_is_the_default() {
    assert_eq!(
        config("mount_timeout_sec = 0\n[http]\nMaxRetries = 0\n[fuse]\nattr_timeout = 0"),
        Config::default()
    );
}

/// Keys of a file that nothing goes by.
fn unused(text: &str) -> Vec<&'static str> {
    parse(text, Path::new("config.toml")).unwrap().unused_keys.iter().map(|unused| unused.key).collect()
}

#[test]
fn unknown_keys_are_told_with_their_table_and_those_without_meaning_are_not() {
    let text = "filesystem_cache_type = \"memory\"\ntypo = 1\n[http]\nretries = 1\n[cri_keychain]\nEnable_Keychain = true\n\
        [directory_cache]\nDirect = true\n[snapshotter]\nmin_layer_sise = 1";
    let loaded = parse(text, Path::new("config.toml")).unwrap();
    let mut unknown = loaded.unknown_keys;
    unknown.sort();
    assert_eq!(unknown, ["http.retries", "snapshotter.min_layer_sise", "typo"]);
    assert!(loaded.config.cri_keychain.enable_keychain);
    assert_eq!(unused(text), ["filesystem_cache_type", "directory_cache"]);
}

#[test]
fn keys_are_the_same_in_upper_and_lower_case() {
    let text = r#"
        Mount_Timeout_Sec = 7
        [HTTP]
        maxretries = 2
        [http]
        MINWAITMSEC = 9
        [PULL_MODES.soci_V1]
        Enable = true
        [pull_modes.Soci_v2]
        enable = false
        [[Resolver.Host."Registry.Test".Mirrors]]
        HOST = "https://mirror.test"
        Insecure = true
        [pack.attributes]
        Zone = "A"
        "#;
    let config = config(text);
    assert_eq!(config.mount_timeout(), Duration::from_secs(7));
    assert_eq!((config.http.retries(), config.http.min_wait()), (2, Duration::from_millis(9)));
    assert!(config.pull_modes.soci_v1.enable && !config.pull_modes.soci_v2.enable);
    let mirror = &config.resolver.host["Registry.Test"].mirrors[0];
    assert!(mirror.insecure && mirror.host == "https://mirror.test", "names of registries stay as they are");
    assert_eq!(config.pack.attributes["Zone"], "A");
    let said = error("[Blob]\nFetching_Timeout_Sec = \"soon\"");
    assert!(said.contains("line 2") && said.contains("Fetching_Timeout_Sec"), "{said}");
}

#[test]
fn sizes_are_numbers_or_texts() {
    for (size, bytes) in [("\"16mb\"", 16 << 20), ("16777216", 16 << 20), ("\"512 KB\"", 512 << 10)] {
        let config = config(&format!(
            "[cache]\nmax_bytes = {size}\n[snapshotter]\nmin_layer_size = {size}\n[pack]\nmax_bytes = {size}\n\
             [prefetch]\nmax_bandwidth = {size}\n[pull_modes.parallel_pull_unpack]\nconcurrent_download_chunk_size = {size}"
        ));
        assert_eq!(config.cache.limit(), Some(bytes));
        assert_eq!(config.snapshotter.min_layer_size(), bytes);
        assert_eq!(config.pack.limit(), bytes);
        assert_eq!(config.prefetch.bandwidth().map(u64::from), Some(bytes));
        assert_eq!(config.pull_modes.parallel_pull_unpack.chunk_size(), Some(bytes));
    }
    for none in ["\"\"", "0", "-1", "\"-1\""] {
        let text = format!("[pull_modes.parallel_pull_unpack]\nconcurrent_download_chunk_size = {none}");
        assert_eq!(config(&text).pull_modes.parallel_pull_unpack.chunk_size(), None, "{none}");
    }
}

/// Files as they are on nodes today; `tests/privileged/swap.rs` starts the daemon with them.
#[test]
fn files_of_managed_nodes_have_their_meaning() {
    let upstream = include_str!("../../../tests/golden/config/upstream-default.toml");
    let read = config(upstream);
    assert!(!read.prefetch.enable && !read.cri_keychain.enable_keychain && !read.pull_modes.soci_v1.enable);
    assert_eq!(read.fuse.attr_ttl(), Duration::from_secs(1));
    assert_eq!(unused(upstream).len(), 27, "{:?}", unused(upstream));

    let al2023 = include_str!("../../../tests/golden/config/al2023.toml");
    let read = config(al2023);
    let pull = &read.pull_modes.parallel_pull_unpack;
    assert!(pull.enable && read.cri_keychain.enable_keychain);
    assert_eq!(read.cri_keychain.socket(), Path::new("/run/containerd/containerd.sock"));
    assert_eq!((pull.layers_at_once(), pull.requests_per_layer()), (12, 20));
    assert_eq!((pull.chunk_size(), pull.requests_at_once()), (Some(16 << 20), None));
    let pull = "pull_modes.parallel_pull_unpack";
    assert_eq!(
        unused(al2023),
        [
            "content_store.type",
            &format!("{pull}.discard_unpacked_layers"),
            &format!("{pull}.decompress_streams")
        ]
    );

    let bottlerocket = include_str!("../../../tests/golden/config/bottlerocket.toml");
    let read = config(bottlerocket);
    let pull = &read.pull_modes.parallel_pull_unpack;
    assert!(pull.enable && read.cri_keychain.enable_keychain && !read.pull_modes.soci_v2.enable);
    assert_eq!((pull.layers_at_once(), pull.requests_per_layer()), (5, 10));
    assert_eq!((pull.chunk_size(), pull.requests_at_once()), (Some(8 << 20), Some(60)));
}

#[test]
fn what_cannot_be_is_an_error_that_says_where() {
    assert!(error("mount_timeout_sec = \"5\"").contains("mount_timeout_sec"));
    assert!(error("[http").contains("config.toml"));
    assert!(error("[content_store]\ntype = \"disk\"").contains("disk"));
    assert!(error("metrics_network = \"udp\"").contains("metrics_network"));
    assert!(error("[background_fetch]\ndrop_policy = \"random\"").contains("got \"random\""));
    let pull = "[pull_modes.parallel_pull_unpack]\n";
    assert!(
        error(&format!("{pull}concurrent_download_chunk_size = \"5 tb\""))
            .contains("invalid size format: 5 tb")
    );
}

#[test]
fn a_file_that_was_asked_for_must_exist() {
    let absent = tempfile::tempdir().unwrap().path().join("config.toml");
    assert!(matches!(load(Some(&absent)), Err(ConfigError::Read { .. })));
}
