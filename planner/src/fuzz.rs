//! What must hold for any bytes at all that are given for a profile: the bodies of the fuzz targets in `fuzz/`, as in
//! [`soci_core::fuzz`], whose meter and seed they use.
//!
//! Only built with the feature `testing`. Owns nothing. Each function takes hostile bytes and panics when a promise is broken.

use soci_core::digest::Digest;
use soci_core::fuzz::{Seed, Target, bounded};

use crate::profile::{Content, Inventory, Profile, Source, Threshold};

/// All targets by name: the names of the programs in `fuzz/fuzz_targets` and of the corpora.
pub const TARGETS: [(&str, Target); 2] = [("profile_read", profile_read), ("profile_shapes", profile_shapes)];

/// A plan and a rebase are made of profiles up to this many needs, so that no input takes long.
const MOST_NEEDS: usize = 20_000;

/// A profile that is read can be written, and read again as the same; what is made of it keeps its promises.
pub fn profile_read(bytes: &[u8]) {
    let Ok(profile) = bounded(bytes.len(), || Profile::read(bytes)) else { return };
    let needs: usize = profile.files().map(|(_, file)| file.needs.len()).sum();
    if needs > MOST_NEEDS {
        return;
    }
    let written = profile.to_bytes();
    assert_eq!(Profile::read(&written).expect("it was written just now"), profile);
    let merged = Profile::merge([profile.clone(), profile.clone()]).expect("it is one workload");
    assert_eq!(merged.expect("there is one").to_bytes(), written, "twice the same is the same");

    let planned = profile.plan(Threshold::Any).plan;
    assert!(planned.asked <= planned.must_have && planned.must_have <= planned.items.len());
    let bytes: u64 = planned.items.iter().map(|item| item.range.len()).sum();
    assert_eq!(bytes, profile.bytes(), "each byte is planned once");

    // Another build: some files are the same, some are gone, the others are longer or shorter.
    let files = profile.files().enumerate().filter(|(at, _)| at % 5 != 4);
    let files = files.map(|(at, (path, file))| {
        let known = file.content.unwrap_or(Content { size: 1 << 20, digest: Digest::of(b"") });
        let size = [known.size, known.size / 2, known.size.saturating_mul(2), 5000][at % 4];
        let content = if size == known.size { known } else { Content { size, digest: Digest::of(path) } };
        (path.clone(), content)
    });
    let (rebased, _) = profile.rebase(Source::default(), &Inventory::new(files));
    assert_eq!(Profile::read(&rebased.to_bytes()).expect("it was written just now"), rebased);
    // The same runs as they were and as they are now.
    let both = Profile::merge([rebased, profile]).expect("it is one workload").expect("there is one");
    assert_eq!(Profile::read(&both.to_bytes()).expect("it was written just now"), both);
}

/// Documents of few pieces that are repeated and nested, as they are and in a frame.
pub fn profile_shapes(bytes: &[u8]) {
    const RUN: &str = r#"{"started_at":"","id":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","engine":"","outcome":"ready","ended_us":1}"#;
    const PIECES: [&str; 12] = [
        "[0,1,0,0,0],",
        "[0,1,0,0,0",
        ",0,0,0",
        "],",
        "[],",
        "]},{\"path\":\"b\",\"ranges\":[",
        "]},{\"path\":\"b\",\"size\":1,\"ranges\":[",
        "],\"x\":[",
        "{\"x\":",
        "18446744073709551615,",
        "[",
        " ",
    ];
    let mut seed = Seed(bytes);
    let runs = vec![RUN; seed.below(3)].join(",");
    let mut text = format!(
        r#"{{"schema":1,"image":{{"reference":""}},"runs":[{runs}],"files":[{{"path":"a","ranges":["#
    );
    for _ in 0..seed.below(7) {
        let piece = PIECES[seed.below(PIECES.len())];
        text.push_str(&piece.repeat(seed.count().min((4 << 20) / piece.len())));
    }
    if text.ends_with(',') {
        text.pop();
    }
    text.push_str("]}]}");
    if seed.flag() {
        let frame = zstd::bulk::compress(text.as_bytes(), 1).expect("memory is written to");
        profile_read(&frame);
    }
    profile_read(text.as_bytes());
}
