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
    assert_eq!(config.pull_modes.parallel_pull_unpack.chunk_size().unwrap(), Some(3 << 19));
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

#[test]
fn unknown_keys_are_told_with_their_table() {
    let text =
        "filesystem_cache_type = \"memory\"\n[http]\nmaxretries = 1\n[cri_keychain]\nenable_keychain = true";
    let mut unknown = parse(text, Path::new("config.toml")).unwrap().unknown_keys;
    unknown.sort();
    assert_eq!(unknown, ["cri_keychain", "filesystem_cache_type", "http.maxretries"]);
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
