//! The page map and the cache file: what survives, and what must not.
//!
//! A kill is simulated by copying the files of an open cache: that is what a killed process leaves behind, since the kernel
//! keeps what was written.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use soci_core::digest::Digest;
use soci_core::units::ByteRange;
use tempfile::TempDir;

use super::SpanCache;
use super::bitmap::{Identity, PAGE, PageMap};
use crate::boot::BootId;

const BOOT: BootId = BootId::from_bytes([1; 16]);
const NEXT_BOOT: BootId = BootId::from_bytes([2; 16]);
const SIZE: u64 = 100 * PAGE + 17;

fn identity() -> Identity {
    Identity { layer: Digest::of(b"layer"), ztoc: Digest::of(b"ztoc"), size: SIZE }
}

fn filled(root: &Path) -> SpanCache {
    let cache = SpanCache::open(root, identity(), BOOT).unwrap();
    assert!(!cache.holds(ByteRange::new(0, 1)));
    store(&cache, 0, &[7; 3 * PAGE as usize]);
    cache
}

/// Stores checked bytes where no pack had brought others.
fn store(cache: &SpanCache, offset: u64, bytes: &[u8]) {
    cache.store(offset, bytes, &mut |offset| panic!("differs at {offset}")).unwrap();
}

/// A copy of the cache as a killed process would leave it.
fn killed(root: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let (from, to) =
        (SpanCache::directory(root, &identity()), SpanCache::directory(copy.path(), &identity()));
    fs::create_dir_all(&to).unwrap();
    for name in ["data", "pages", "packed"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    copy
}

#[test]
fn pages_survive_a_kill() {
    let root = tempfile::tempdir().unwrap();
    let cache = filled(root.path());
    let copy = killed(root.path());
    drop(cache);
    let after = SpanCache::open(copy.path(), identity(), BOOT).unwrap();
    assert!(after.holds(ByteRange::new(0, 3 * PAGE)));
    assert!(!after.holds(ByteRange::new(0, 3 * PAGE + 1)));
    let mut bytes = vec![0; 3 * PAGE as usize];
    after.read(0, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7));
}

#[test]
fn what_comes_after_the_end_is_not_believed_by_the_next_boot() {
    let root = tempfile::tempdir().unwrap();
    let identity = Identity { size: 8 * PAGE, ..identity() };
    let cache = SpanCache::open(root.path(), identity, BOOT).unwrap();
    let page = vec![7; PAGE as usize];
    let late = ByteRange::new(4 * PAGE, 5 * PAGE);
    cache.store(0, &page, &mut |_| {}).unwrap();
    cache.close().unwrap();
    // Somebody still reads while the process ends.
    cache.store(late.start, &page, &mut |_| {}).unwrap();
    assert!(cache.holds(late));
    drop(cache);
    let cache = SpanCache::open(root.path(), identity, NEXT_BOOT).unwrap();
    assert!(cache.holds(ByteRange::new(0, PAGE)) && !cache.holds(late));
}

#[test]
fn pages_are_dropped_after_a_crash_of_the_machine_only() {
    let root = tempfile::tempdir().unwrap();
    let cache = filled(root.path());
    let crashed = killed(root.path());
    drop(cache);
    let after = SpanCache::open(crashed.path(), identity(), NEXT_BOOT).unwrap();
    assert_eq!(after.bytes_present(), 0, "written back in an unknown order: not believed");

    let clean = SpanCache::open(root.path(), identity(), NEXT_BOOT).unwrap();
    assert_eq!(clean.bytes_present(), 3 * PAGE, "closed cleanly: believed by the next boot");
    let crashed_again = killed(root.path());
    drop(clean);
    let after = SpanCache::open(crashed_again.path(), identity(), BOOT).unwrap();
    assert_eq!(after.bytes_present(), 0, "opening takes the clean mark away");
}

#[test]
fn another_size_or_a_torn_file_is_not_believed() {
    let root = tempfile::tempdir().unwrap();
    drop(filled(root.path()));
    let directory = SpanCache::directory(root.path(), &identity());
    let pages = fs::read(directory.join("pages")).unwrap();

    fs::write(directory.join("pages"), &pages[..pages.len() - 1]).unwrap();
    assert_eq!(SpanCache::open(root.path(), identity(), BOOT).unwrap().bytes_present(), 0);

    drop(filled(root.path()));
    fs::OpenOptions::new().write(true).open(directory.join("data")).unwrap().set_len(SIZE - 1).unwrap();
    assert_eq!(SpanCache::open(root.path(), identity(), BOOT).unwrap().bytes_present(), 0);

    drop(filled(root.path()));
    let mut pages = fs::read(directory.join("pages")).unwrap();
    pages[20] ^= 1;
    fs::write(directory.join("pages"), pages).unwrap();
    assert_eq!(
        SpanCache::open(root.path(), identity(), BOOT).unwrap().bytes_present(),
        0,
        "another layer's map"
    );
}

#[test]
fn the_map_of_packs_is_believed_by_itself_but_never_without_the_other() {
    let (checked, packed) = (ByteRange::new(0, 3 * PAGE), ByteRange::new(3 * PAGE, 5 * PAGE));
    let reopened = |harm: &dyn Fn(&Path), boot| {
        let root = tempfile::tempdir().unwrap();
        let cache = filled(root.path());
        cache.store_packed(&[(packed.start, &[8; 2 * PAGE as usize])]).unwrap();
        let copy = killed(root.path());
        harm(&SpanCache::directory(copy.path(), &identity()));
        let after = SpanCache::open(copy.path(), identity(), boot).unwrap();
        (after.checked(checked), after.any_packed(packed) && after.holds(packed))
    };
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[20] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    assert_eq!(reopened(&|_| {}, BOOT), (true, true));
    assert_eq!(reopened(&|_| {}, NEXT_BOOT), (false, false));
    assert_eq!(reopened(&|cache| flip(&cache.join("packed")), BOOT), (true, false));
    assert_eq!(reopened(&|cache| fs::remove_file(cache.join("packed")).unwrap(), BOOT), (true, false));
    assert_eq!(reopened(&|cache| flip(&cache.join("pages")), BOOT), (false, false));
    assert_eq!(reopened(&|cache| fs::write(cache.join("data"), "").unwrap(), BOOT), (false, false));
}

#[test]
fn parts_of_pages_stay_over_a_clean_end() {
    let root = tempfile::tempdir().unwrap();
    let cache = SpanCache::open(root.path(), identity(), BOOT).unwrap();
    let page = PAGE as usize;
    store(&cache, 10, &vec![1; 2 * page]);
    assert!(cache.checked(ByteRange::new(10, 2 * PAGE + 10)));
    assert!(!cache.holds(ByteRange::new(9, 11)));
    assert!(!cache.holds(ByteRange::new(2 * PAGE, 2 * PAGE + 11)));
    store(&cache, 99 * PAGE + 1, &vec![1; page + 16]);
    assert!(cache.holds(ByteRange::new(99 * PAGE + 1, SIZE)));
    let after_a_kill = killed(root.path());
    let cache_after_a_kill = SpanCache::open(after_a_kill.path(), identity(), BOOT).unwrap();
    assert!(cache_after_a_kill.checked(ByteRange::new(PAGE, 2 * PAGE)), "whole pages stay");
    assert_eq!(cache_after_a_kill.absent(ByteRange::new(0, PAGE)), [ByteRange::new(0, PAGE)], "parts do not");
    assert!(
        cache_after_a_kill.checked(ByteRange::new(100 * PAGE, SIZE)),
        "the layer's end ends its last page"
    );
    drop(cache);
    let cache = SpanCache::open(root.path(), identity(), BOOT).unwrap();
    assert_eq!(cache.absent(ByteRange::new(0, PAGE)), [ByteRange::new(0, 10)], "parts stay, too");
    assert!(cache.checked(ByteRange::new(10, 2 * PAGE + 10)));
    let unclean = killed(root.path());
    let next = SpanCache::open(unclean.path(), identity(), BOOT).unwrap();
    assert_eq!(next.absent(ByteRange::new(0, PAGE)), [ByteRange::new(0, PAGE)], "they are believed once");
    store(&cache, 0, &[1; 10]);
    drop(cache);
    let cache = SpanCache::open(root.path(), identity(), BOOT).unwrap();
    assert!(cache.checked(ByteRange::new(0, 2 * PAGE)), "parts that fill a page are a page");
}

#[test]
fn writing_outside_the_layer_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let cache = SpanCache::open(root.path(), identity(), BOOT).unwrap();
    store(&cache, SIZE - 1, &[1]);
    for offset in [SIZE, u64::MAX] {
        assert!(cache.store(offset, &[1], &mut |_| {}).is_err());
        assert!(cache.store_packed(&[(offset, &[1])]).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn page_map_is_a_set(size in 1..300 * PAGE, sets in prop::collection::vec((0u64..310, 0u64..70), 0..12), asks in prop::collection::vec((0u64..310, 0u64..70), 0..12)) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pages");
        let identity = Identity { size, ..identity() };
        let (map, _) = PageMap::open(&path, identity, BOOT).unwrap();
        let pages = size.div_ceil(PAGE);
        let mut model = BTreeSet::new();
        for (first, count) in sets {
            let end = (first + count).min(pages);
            let new = (first..end).any(|page| !model.contains(&page));
            prop_assert_eq!(map.put(first, end, true), new);
            map.save(first, end).unwrap();
            model.extend(first..end);
        }
        let (again, kept) = PageMap::open(&path, identity, BOOT).unwrap();
        prop_assert!(kept);
        for map in [&map, &again] {
            prop_assert_eq!(map.count_with(map), model.len() as u64);
            for (first, count) in &asks {
                let end = (first + count).min(pages);
                let all = (*first..end).all(|page| model.contains(&page));
                prop_assert_eq!(map.covers(*first, end), all);
            }
        }
    }
}
