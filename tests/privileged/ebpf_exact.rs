//! The eBPF engine by default: the bytes that calls gave, and not the pages they lie in.
//!
//! Needs root and a kernel with its type information, x86-64.

use std::path::Path;
use std::sync::OnceLock;

use harness::access::{AccessImage, EXACT, MAPPED, complete, joined};
use harness::truth::{Truth, pages};
use soci_core::trace::{Access, AccessKind, TraceReader};

const EBPF: [&str; 2] = ["--engine", "ebpf"];
/// Ways of reading that are not by a reading call: still by pages.
const NO_CALL: [&str; 2] = ["uring", "populate"];

fn image() -> &'static AccessImage {
    static IMAGE: OnceLock<AccessImage> = OnceLock::new();
    IMAGE.get_or_init(|| {
        AccessImage::new(&Path::new(env!("CARGO_TARGET_TMPDIR")).join(module_path!().replace("::", "-")))
    })
}

fn bytes(accesses: &[Access], path: &str) -> Vec<(u64, u64)> {
    let of_file = accesses.iter().filter(|access| &*access.path == path.as_bytes() && access.len > 0);
    joined(of_file.map(|access| (access.offset, access.offset + access.len)).collect())
}

#[test]
fn calls_are_recorded_by_the_byte_and_the_rest_by_the_page() {
    let kinds: Vec<&str> =
        EXACT.iter().chain(&MAPPED).chain(&["direct", "shared_position"]).copied().collect();
    let recording = image().record(&EBPF, &[&["access"], &kinds[..]].concat());
    let accesses = complete(&recording);
    let pages = pages(&accesses);
    let truth = Truth::parse(&recording.stdout()).files;
    assert!(truth.len() >= kinds.len() - 2, "{}", recording.stdout());
    for (path, needed) in truth {
        let kind = needed.kind.as_str();
        if MAPPED.contains(&kind) {
            let missing: Vec<_> = needed.pages().difference(&pages[&path]).copied().collect();
            assert_eq!(missing, Vec::<u64>::new(), "{kind}");
        } else if NO_CALL.contains(&kind) {
            assert_eq!(pages[&path], needed.pages(), "{kind}");
        } else {
            assert_eq!(bytes(&accesses, &path), joined(needed.ranges), "{kind}");
        }
    }
    let reader = TraceReader::open(&recording.dir.path().join("t.trace")).unwrap();
    assert_eq!((reader.header().engine.as_str(), reader.flags()), ("ebpf-exact", 1));
    assert!(accesses.windows(2).all(|pair| pair[0].t_ns <= pair[1].t_ns));
}

#[test]
fn a_file_that_is_only_opened_is_in_the_trace_and_in_no_list() {
    let recording = image().record(&EBPF, &["access", "opened", "pread"]);
    let accesses = complete(&recording);
    let of_file: Vec<_> = accesses.iter().filter(|access| &*access.path == b"data/opened").collect();
    assert_eq!(of_file.len(), 1, "once: {of_file:?}");
    assert_eq!((of_file[0].kind, of_file[0].len, of_file[0].layer), (AccessKind::Open, 0, Some(0)));
    assert_eq!(&*of_file[0].process.comm, b"access");
    assert!(recording.stderr().contains("opened only: 1 files"), "{}", recording.stderr());
    let list = std::fs::read_to_string(recording.dir.path().join("t.prefetch.json")).unwrap();
    assert!(list.contains("/data/pread") && !list.contains("/data/opened"), "{list}");
}

#[test]
fn by_pages_neither_direct_reads_nor_openings_are_seen_and_old_readers_read_the_trace() {
    let recording = image().record(&["--reads", "pages"], &["access", "direct", "opened"]);
    let accesses = complete(&recording);
    assert!(accesses.iter().all(|access| !access.path.starts_with(b"data/")), "{accesses:?}");
    let reader = TraceReader::open(&recording.dir.path().join("t.trace")).unwrap();
    assert_eq!((reader.header().engine.as_str(), reader.flags()), ("ebpf", 0));
}

#[test]
fn runs_are_merged_with_what_most_of_them_opened() {
    let recording = image().record(&[&EBPF[..], &["--runs", "2"]].concat(), &["access", "opened", "pread"]);
    let accesses = complete(&recording);
    assert!(accesses.iter().any(|a| &*a.path == b"data/opened" && a.kind == AccessKind::Open));
    assert_eq!(bytes(&accesses, "data/pread")[0], (20000, 20010));
}

#[test]
fn fuse_has_one_way_and_exact_is_a_word_for_the_default() {
    for flags in [&["--exact"][..], &["--reads", "pages"]] {
        let refused = image().record(&[&["--engine", "fuse"], flags].concat(), &["access", "nothing"]);
        assert_eq!(refused.code(), Some(1));
        assert!(refused.stderr().contains("--engine fuse has one way"), "{}", refused.stderr());
    }
    for flags in [&["--exact"][..], &["--engine", "ebpf", "--exact"], &["--reads", "calls"]] {
        let recording = image().record(flags, &["access", "pread"]);
        assert_eq!(bytes(&complete(&recording), "data/pread")[0], (20000, 20010), "{flags:?}");
    }
}
