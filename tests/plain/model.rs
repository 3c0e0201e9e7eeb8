//! The file system over spans against the simplest model there is: the plain tar in memory.
//!
//! Random layers, random reads from several threads, a registry that fails now and then, and restarts in between: whatever
//! is read must be the tar's bytes, or an error while the registry fails, never anything else.

use std::sync::Arc;

use harness::faults::{Fault, When};
use harness::image::{LayerSource, TarWriter, gzip, publish};
use harness::node::TestNode;
use harness::registry::TestRegistry;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use snapshotter::fs::{InodeNo, LayerFs};
use soci_core::digest::Digest;

/// A file's content: pseudo-random in parts, so that gzip makes blocks of all kinds.
fn content(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match state >> 61 {
            0..=2 => bytes.extend_from_slice(&state.to_le_bytes()),
            3..=5 => bytes.extend(std::iter::repeat_n((state >> 40) as u8, (state >> 50) as usize % 700)),
            _ => bytes.extend_from_slice(b"some text that repeats itself, "),
        }
    }
    bytes.truncate(size);
    bytes
}

#[derive(Debug, Clone)]
struct Read {
    file: usize,
    offset: f64,
    size: u32,
}

#[derive(Debug, Clone)]
enum Step {
    /// Reads at the same time, each on its own thread.
    Reads(Vec<Read>),
    /// The next layer requests go wrong like this.
    Fault(u8, u32),
    /// The process ends and another one starts on the same directory.
    Restart,
}

fn read() -> impl Strategy<Value = Read> {
    (0usize..6, 0.0..1.1, 0u32..200_000).prop_map(|(file, offset, size)| Read { file, offset, size })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(read(), 1..4).prop_map(Step::Reads),
        2 => (0u8..5, 1u32..4).prop_map(|(kind, times)| Step::Fault(kind, times)),
        1 => Just(Step::Restart),
    ]
}

fn check(
    fs: &Arc<LayerFs>,
    node: &TestNode,
    files: &[(String, Vec<u8>)],
    reads: &[Read],
    may_fail: bool,
) -> Result<(), String> {
    let handle = node.runtime.handle();
    std::thread::scope(|scope| {
        let one = |read: &Read| -> Result<(), String> {
            let (name, whole) = &files[read.file % files.len()];
            let ino =
                fs.lookup(InodeNo::ROOT, name.as_bytes()).map_err(|error| format!("{name}: {error}"))?.ino;
            let offset = (read.offset * whole.len() as f64) as usize;
            let start = offset.min(whole.len());
            let want = &whole[start..(start + read.size as usize).min(whole.len())];
            let got = match fs.read_cached(ino, offset as u64, read.size) {
                Ok(Some(bytes)) => Ok(bytes),
                Ok(None) => handle.block_on(fs.read(ino, offset as u64, read.size)),
                Err(error) => Err(error),
            };
            match got {
                Ok(bytes) if bytes == want => Ok(()),
                Ok(_) => Err(format!("wrong bytes of {name} at {offset}")),
                Err(_) if may_fail => Ok(()),
                Err(error) => Err(format!("{name} at {offset}: {error:?}")),
            }
        };
        let threads: Vec<_> = reads.iter().map(|read| scope.spawn(move || one(read))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| "a reader panicked".to_owned())?)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        ..ProptestConfig::default()
    })]

    #[test]
    fn reads_are_the_tars_bytes_or_errors(
        sizes in prop::collection::vec(0usize..400_000, 1..6),
        seed in any::<u64>(),
        level in 0u32..10,
        span_size in prop_oneof![Just(0u64), Just(3_000), Just(65_536), Just(1 << 20)],
        steps in prop::collection::vec(step(), 1..12),
    ) {
        let files: Vec<_> = sizes.iter().enumerate()
            .map(|(at, size)| (format!("file{at}"), content(seed.wrapping_add(at as u64), *size)))
            .collect();
        let mut tar = TarWriter::default();
        for (name, bytes) in &files {
            tar.file(name, bytes);
        }
        let tar = tar.finish();
        let source = LayerSource { gzip: gzip(&tar, level), diff_id: Some(Digest::of(&tar)), ..LayerSource::default() };
        let registry = TestRegistry::start();
        let image = publish(&registry, "model", &[source], span_size);
        let blob = image.layers[0].to_string();

        let root = tempfile::tempdir().unwrap();
        let mut node = TestNode::new(root.path(), |_| {});
        let mut layer = node.layer(&image, 0);
        let mut fs = Arc::new(layer.fs());
        let mut faulty = false;
        for step in &steps {
            match step {
                Step::Reads(reads) => {
                    let outcome = check(&fs, &node, &files, reads, faulty);
                    prop_assert!(outcome.is_ok(), "{:?}", outcome);
                }
                Step::Fault(kind, times) => {
                    let fault = match kind {
                        0 => Fault::Status(503, None),
                        1 => Fault::Truncate(1000),
                        2 => Fault::Corrupt,
                        3 => Fault::ShiftContentRange(7),
                        _ => Fault::Status(416, None),
                    };
                    registry.faults().add_times(When::path(blob.clone()), fault, *times);
                    faulty = true;
                }
                Step::Restart => {
                    drop((fs, layer));
                    drop(node);
                    registry.faults().clear();
                    faulty = false;
                    node = TestNode::new(root.path(), |_| {});
                    layer = node.layer(&image, 0);
                    fs = Arc::new(layer.fs());
                }
            }
        }
        // Whatever happened before: when the registry is well again, everything can be read.
        registry.faults().clear();
        let all: Vec<_> = (0..files.len()).map(|file| Read { file, offset: 0.0, size: 500_000 }).collect();
        let outcome = check(&fs, &node, &files, &all, false);
        prop_assert!(outcome.is_ok(), "{:?}", outcome);
        prop_assert_eq!(node.stats.prefetch_spans.get(), 0, "nothing was asked to be prefetched");
    }
}
