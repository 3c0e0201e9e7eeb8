//! The matrix of docs/registries.md: each manner of registries, and what comes of a push, of lazy reads and of a full pull.
//!
//! No read fails, no byte is wrong, and nothing that was pushed beside an image is lost.

use harness::disk_image::{self, half_random};
use harness::image::{LayerSource, Published, TarWriter, gzip, publish};
use harness::node::TestNode;
use harness::registry::{AuthMode, Habits, PASSWORD, Ranges, Referrers, TestRegistry, USER};
use harness::soci::Soci;
use snapshotter::image::LayerState;
use snapshotter::unpack::{UnpackOptions, Unpacker, WholeLayer};
use soci_core::digest::Digest;
use soci_core::image::{ImageSource, Platform};
use soci_core::media_type::{FINE_INDEX, OCI_LAYER_GZIP, SOCI_INDEX_V1};
use soci_core::registry::Registry;
use soci_core::units::ByteRange;

const AUTH: [AuthMode; 6] = [
    AuthMode::Open,
    AuthMode::Basic,
    AuthMode::Bearer,
    AuthMode::BearerForAll,
    AuthMode::BearerThenBasic,
    AuthMode::BearerForPull,
];
const RANGES: [Ranges; 3] = [Ranges::Honoured, Ranges::IgnoredFirst, Ranges::Ignored];

/// How registries give out what is read.
fn reading() -> Vec<Habits> {
    let mut all = Vec::new();
    for ranges in RANGES {
        all.extend(AUTH.map(|auth| Habits { auth, ranges, ..Habits::default() }));
        all.push(Habits { redirect_blobs: true, ranges, ..Habits::default() });
    }
    all
}

/// A layer that is large enough for a read of its end to be dear where only the whole is given.
fn tar() -> Vec<u8> {
    TarWriter::default().file("a", &half_random(3 << 20, 1)).file("b", &half_random(2 << 20, 2)).finish()
}

fn published(registry: &TestRegistry, tar: &[u8]) -> Published {
    let mut layer = LayerSource::of_tar(tar);
    layer.gzip = gzip(tar, 1);
    publish(registry, "a", &[layer], 256 << 10)
}

#[test]
fn lazy_reads_are_right_or_the_layer_is_known_not_to_be_lazy() {
    let tar = tar();
    for habits in reading() {
        let registry = TestRegistry::with(habits.clone());
        let image = published(&registry, &tar);
        let root = tempfile::tempdir().unwrap();
        let node = TestNode::new(root.path(), |node| node.registry = Registry::new(registry.client()));
        let state = node.runtime.block_on(node.image(&image).layer(&image.layers[0]));
        if habits.ranges == Ranges::Ignored {
            let error = state.expect_err("no part of it can be had").to_string();
            assert!(error.contains("ignores ranges"), "{habits:?}: {error}");
            continue;
        }
        let Ok(LayerState::Lazy(layer)) = state else { panic!("{habits:?}: {state:?}") };
        if habits.ranges == Ranges::Honoured {
            let parts = |one: &&harness::registry::Request| one.range.as_deref() == Some("bytes=0-0");
            assert_eq!(registry.requests().iter().filter(parts).count(), 0, "nothing is asked only to know");
        }
        let all = ByteRange::new(0, tar.len() as u64);
        let read = |start: u64, end: u64| {
            let bytes = node.runtime.block_on(layer.spans().read(ByteRange::new(start, end), all));
            let bytes = bytes.unwrap_or_else(|error| panic!("{habits:?}: {start}..{end}: {error:?}"));
            assert!(bytes == tar[start as usize..end as usize], "{habits:?}: {start}..{end}");
        };
        read(tar.len() as u64 - 4096, tar.len() as u64);
        // Everything that was given out is worth nothing any more.
        registry.revoke_tokens();
        registry.expire_redirects();
        read(1 << 20, (1 << 20) + 4096);
        // In the middle of its life the registry, or a proxy in front of it, stops giving parts.
        registry.change(|habits| habits.ranges = Ranges::Ignored);
        registry.revoke_tokens();
        read(0, tar.len() as u64);
    }
}

#[test]
fn a_full_pull_is_right_at_each_registry() {
    let tar = tar();
    for habits in reading() {
        let registry = TestRegistry::with(habits.clone());
        let image = published(&registry, &tar);
        let root = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let limits = UnpackOptions {
            layers_at_once: 1,
            chunk_size: 512 << 10,
            requests_per_layer: 3,
            requests_at_once: None,
        };
        let unpacker =
            Unpacker::new(root.path().join("work"), limits, true, runtime.handle().clone()).unwrap();
        let size = registry.blob(&image.layers[0]).unwrap().len() as u64;
        let layer = WholeLayer {
            repository: Registry::new(registry.client()).repository(&image.reference.parse().unwrap()),
            digest: image.layers[0],
            size,
            diff_id: Digest::of(&tar),
        };
        let unpacked = runtime.block_on(unpacker.take(&layer));
        let unpacked = unpacked.unwrap_or_else(|error| panic!("{habits:?}: {error:?}"));
        let place = root.path().join("place");
        std::fs::create_dir(&place).unwrap();
        unpacked.place(&place, &[]).unwrap();
        assert!(std::fs::read(place.join("a")).unwrap() == half_random(3 << 20, 1), "{habits:?}");
        assert!(std::fs::read(place.join("b")).unwrap() == half_random(2 << 20, 2), "{habits:?}");
    }
}

/// An image on disk, with a SOCI index and fine indexes.
fn created() -> Soci {
    let soci = Soci::new();
    let tar = |name: &str, seed| TarWriter::default().file(name, &half_random(300_000, seed)).finish();
    let blobs = [(OCI_LAYER_GZIP, gzip(&tar("a", 1), 6)), (OCI_LAYER_GZIP, gzip(&tar("b", 2), 6))];
    disk_image::write(&soci.dir().join("image"), "v1", &blobs);
    soci.run(["create", "--min-layer-size", "0", "--fine", "oci:image"]).ok();
    soci
}

/// Pushes the image, and what is beside it, in all the ways in which it may go; each time all of it must be found.
fn pushes(soci: &Soci, habits: &Habits) {
    let registry = TestRegistry::with(habits.clone());
    let name = registry.image("app:v1");
    let credential = format!("{USER}:{PASSWORD}");
    let push = || {
        soci.run([
            "push",
            "-q",
            "--user",
            &credential,
            "--existing-index",
            "allow",
            "--image",
            "oci:image",
            &name,
        ])
        .ok();
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let image = || {
        runtime.block_on(async {
            let source = ImageSource::parse(&name, &Registry::new(registry.client())).unwrap();
            let image = source.resolve(&Platform::host()).await.unwrap().manifest.digest;
            let repository = source.repository().unwrap();
            for kind in [SOCI_INDEX_V1, FINE_INDEX] {
                let listed = repository.referrers(&image, Some(kind)).await;
                assert_eq!(listed.unwrap().len(), 1, "{habits:?}: {kind}");
            }
            image
        })
    };
    push();
    let tag = image().to_string().replace(':', "-");
    registry.revoke_tokens();
    push();
    image();
    if !habits.referrers.has_list() {
        // As after a push that was interrupted before the last write.
        registry.remove_manifest("app", &tag);
        push();
        image();
    }
}

#[test]
fn a_push_loses_nothing_whatever_is_asked_for() {
    let soci = created();
    for auth in AUTH {
        if auth != AuthMode::Open {
            pushes(&soci, &Habits { auth, ..Habits::default() });
        }
    }
}

#[test]
fn a_push_loses_nothing_however_referrers_are_listed() {
    let soci = created();
    for referrers in Referrers::ALL {
        pushes(&soci, &Habits { referrers, ..Habits::default() });
    }
}

#[test]
fn a_push_loses_nothing_where_tags_cannot_be_changed() {
    let soci = created();
    for status in [400, 409, 412] {
        let immutable_tags = Some(status);
        pushes(&soci, &Habits { referrers: Referrers::Status(404), immutable_tags, ..Habits::default() });
    }
}
