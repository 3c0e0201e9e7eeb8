//! The `soci` program on images on disk: what it prints, stores, and refuses.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::soci::Soci;
use soci_core::digest::Digest;
use soci_core::image::Descriptor;
use soci_core::index::SociIndex;
use soci_core::media_type::{OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD};
use soci_core::store::LayoutStore;
use soci_core::ztoc::{BuildOptions, build_gzip, build_tar};

const SPAN: u64 = 64 << 10;

/// A place with an image of four layers: gzip, plain tar, one that is too small, one that is zstd.
struct Place {
    soci: Soci,
    layers: Vec<Descriptor>,
    ztocs: [Digest; 2],
    big: Vec<u8>,
}

fn place() -> Place {
    let soci = Soci::new();
    let big = half_random(600_000, 1);
    let low = TarWriter::default()
        .entry("data/", b'5', "", b"")
        .file("data/big", &big)
        .file("data/small", b"small\n")
        .entry("data/hard", b'1', "data/big", b"")
        .entry("data/link", b'2', "data/small", b"")
        .entry("data/self", b'2', "data/self", b"")
        .file("data/empty", b"")
        .finish();
    let plain = TarWriter::default().file("plain/file", &half_random(200_000, 2)).finish();
    let small = TarWriter::default().file("tiny", b"x").finish();
    let blobs = [
        (OCI_LAYER_GZIP, gzip(&low, 6)),
        (OCI_LAYER, plain),
        (OCI_LAYER_GZIP, gzip(&small, 6)),
        (OCI_LAYER_ZSTD, vec![7; 5000]),
    ];
    let options = BuildOptions { span_size: SPAN, ..BuildOptions::default() };
    let ztocs = [
        build_gzip(blobs[0].1.as_slice(), &options).unwrap().ztoc_digest,
        build_tar(blobs[1].1.as_slice(), &options).unwrap().ztoc_digest,
    ];
    let layers = disk_image::write(&soci.dir().join("image"), "v1", &blobs);
    Place { soci, layers, ztocs, big }
}

impl Place {
    fn create(&self, more: &[&str]) -> String {
        let args = ["create", "--span-size", "65536", "--min-layer-size", "1000"];
        self.soci.run([&args[..], more, &["oci:image:v1"]].concat()).ok()
    }

    fn index(&self) -> (Digest, SociIndex) {
        let digest = self.soci.run(["index", "ls", "-q"]).ok().lines().next().unwrap().parse().unwrap();
        let store = LayoutStore::existing(&self.soci.dir().join("root/content")).unwrap();
        (digest, SociIndex::parse(store.read(&digest).unwrap()).unwrap())
    }
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn create_says_what_became_of_each_layer() {
    let place = place();
    let [gz, tar, small, zstd] = place.layers.as_slice() else { panic!("four layers") };
    let mut want = vec![
        format!("layer {} -> ztoc {}", gz.digest, place.ztocs[0]),
        format!("layer {} -> ztoc {}", tar.digest, place.ztocs[1]),
        format!(
            "ztoc skipped - layer {} ({OCI_LAYER_GZIP}) size {} is less than min-layer-size 1000",
            small.digest, small.size
        ),
        format!(
            "ztoc skipped - layer {} ({OCI_LAYER_ZSTD}) cannot be read: build zTOC: layer's tar cannot be indexed: invalid tar header at offset 0: number field is not octal",
            zstd.digest
        ),
    ];
    want.sort();
    assert_eq!(sorted(&place.create(&[])), want);
    let (digest, index) = place.index();
    assert_eq!(index.ztocs().map(|ztoc| ztoc.digest).collect::<Vec<_>>(), place.ztocs);

    let again = place.create(&[]);
    assert_eq!(again.matches("(already exists)").count(), 2, "{again}");
    let forced = place.create(&["--force"]);
    assert_eq!(forced.matches("(already exists)").count(), 0, "{forced}");
    assert_eq!(place.index().0, digest, "the same layers and flags give the same index");
}

#[test]
fn lists_and_infos_have_upstreams_form() {
    let place = place();
    place.create(&["--prefetch-file", "/plain/file,/nothing"]);
    let (digest, index) = place.index();
    let size = index.encode().len();
    let table = place.soci.run(["index", "ls", "--ref", "oci:image:v1", "-p", "linux/amd64"]).ok();
    let row = format!(
        "{digest}    {size}    oci:image:v1    linux/amd64    application/vnd.oci.image.manifest.v1+json    v1                  "
    );
    let (_, age) = table.split_once(&row).unwrap_or_else(|| panic!("{table}\n{row}"));
    assert!(age.trim_end().ends_with("s ago") && age.len() >= "CREATED    \n".len(), "{age:?}");
    assert!(table.starts_with("DIGEST  "), "{table}");

    let mut ztocs: Vec<String> = place.ztocs.iter().map(ToString::to_string).collect();
    ztocs.sort();
    assert_eq!(sorted(&place.soci.run(["ztoc", "ls", "-q", "--image-ref", "oci:image:v1"]).ok()), ztocs);
    let layer = place.layers[1].digest;
    let artifact = index.prefetch_of(&layer).unwrap();
    // The file lies in spans 0 to 3, and the offset after its end is in span 3 too.
    let text = place.soci.run(["prefetch", "info", &artifact.digest.to_string()]).ok();
    let (head, tail) = text.split_once("Created:       ").unwrap();
    assert_eq!(
        head,
        format!(
            "Digest:        {}\nVersion:       1.0\nSpan Ranges:   1\nLayer Digest:  {layer}\nSize:          66 bytes\n",
            artifact.digest
        )
    );
    assert!(tail.ends_with(
        "\n\nPrefetch Spans:\n  [0] StartSpan: 0, EndSpan: 3 (covers 4 spans)\n\nTotal spans to prefetch: 4\n"
    ), "{tail}");
    // Upstream prints this below the text.
    let json = place.soci.run(["prefetch", "info", "--json", &artifact.digest.to_string()]).ok();
    assert_eq!(
        json,
        "{\n  \"version\": \"1.0\",\n  \"prefetch_spans\": [\n    {\n      \"start_span\": 0,\n      \"end_span\": 3\n    }\n  ]\n}\n"
    );
    let info = place.soci.run(["ztoc", "info", &place.ztocs[0].to_string()]).ok();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["num_files"], 7);
    assert_eq!(info["files"][1]["filename"], "data/big");
    assert_eq!(info["files"][1]["size"], 600_000);

    let shown = place.soci.run(["index", "info", &digest.to_string()]).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["subject"]["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    place.soci.run(["index", "rm", "--ref", "oci:image:v1"]).ok();
    assert_eq!(place.soci.run(["index", "ls", "-q"]).ok(), "");
    assert_eq!(sorted(&place.soci.run(["ztoc", "ls", "-q"]).ok()), ztocs, "zTOCs stay");
}

#[test]
fn get_file_reads_through_spans_and_follows_links() {
    let place = place();
    place.create(&[]);
    let get = |ztoc: &Digest, name: &str| {
        place.soci.run(["ztoc", "get-file", "--overwrite", "-o", "out", &ztoc.to_string(), name]).ok();
        fs::read(place.soci.dir().join("out")).unwrap()
    };
    assert_eq!(get(&place.ztocs[0], "data/big"), place.big);
    assert_eq!(get(&place.ztocs[0], "data/hard"), place.big);
    assert_eq!(get(&place.ztocs[0], "data/link"), b"small\n");
    assert_eq!(get(&place.ztocs[0], "data/empty"), b"");
    assert_eq!(get(&place.ztocs[1], "plain/file"), half_random(200_000, 2));
    let mode = fs::metadata(place.soci.dir().join("out")).unwrap().permissions().mode();
    assert_ne!(mode & 0o400, 0, "the file can be read");
    let ztoc = place.ztocs[0].to_string();
    assert_eq!(place.soci.run(["ztoc", "get-file", &ztoc, "data/small"]).ok(), "small\n\n");
    let failed = |name: &str| place.soci.run(["ztoc", "get-file", &ztoc, name]).failed();
    assert_eq!(failed("data/none"), "soci: file data/none does not exist in metadata");
    assert_eq!(failed("data/self"), "soci: too many links: data/self");

    // The layer's bytes are checked: a damaged layer gives no file.
    let layer = place.soci.dir().join("image/blobs/sha256").join(place.layers[0].digest.hex());
    let mut bytes = fs::read(&layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&layer, bytes).unwrap();
    let error = failed("data/big");
    assert!(error.contains("digest"), "{error}");
}

#[test]
fn images_come_from_archives_too() {
    let place = place();
    let status = std::process::Command::new("tar")
        .current_dir(place.soci.dir())
        .args(["-cf", "image.tar", "-C", "image", "."])
        .status()
        .unwrap();
    assert!(status.success());
    place.create(&[]);
    let from_layout = place.index().0;
    fs::remove_dir_all(place.soci.dir().join("root")).unwrap();
    let args = ["create", "--span-size", "65536", "--min-layer-size", "1000", "oci-archive:image.tar"];
    place.soci.run(args).ok();
    assert_eq!(place.index().0, from_layout);
    let file = place.soci.run(["ztoc", "get-file", &place.ztocs[0].to_string(), "data/small"]).ok();
    assert_eq!(file, "small\n\n");
}

#[test]
fn refusals_are_upstreams() {
    let place = place();
    place.create(&["--prefetch-file", "plain/file"]);
    let (index, parsed) = place.index();
    let (index, ztoc) = (index.to_string(), place.ztocs[0].to_string());
    let prefetch = parsed.prefetch_artifacts().next().unwrap().digest.to_string();
    let none = format!("sha256:{}", "0".repeat(64));
    fs::write(place.soci.dir().join("bad.json"), "{\"files\":[]}").unwrap();
    let not_retrieved = format!("soci: couldn't retrieve artifact for {none}, not found");
    let cases: &[(&[&str], &str)] = &[
        (&["create"], "soci: source image needs to be specified"),
        (&["create", ""], "soci: source image needs to be specified"),
        (&["create", "--span-size", "-1", "oci:image"], "soci: span size must be >= 0"),
        (&["create", "--min-layer-size", "-1", "oci:image"], "soci: min layer size must be >= 0"),
        (
            &["create", "--min-layer-size", "1000000000", "oci:image"],
            "soci: no ztocs created, all layers either skipped or produced errors",
        ),
        (
            &["create", "--optimizations", "foo", "oci:image"],
            "soci: optimization foo is not a valid optimization [xattr]",
        ),
        (
            &["create", "--prefetch-files-json", "/nonexistent.json", "oci:image"],
            "soci: failed to parse prefetch files: failed to load prefetch files from JSON: failed to read JSON file: open /nonexistent.json: no such file or directory",
        ),
        (&["create", "oci:image:v2"], "soci: image \"oci:image:v2\": not found"),
        (
            &["create", "--platform", "linux", "oci:image"],
            "soci: could not parse platform linux: \"linux\": expected os/arch[/variant]",
        ),
        (&["index", "info"], "soci: invalid checksum digest format"),
        (&["index", "info", "x"], "soci: invalid checksum digest format"),
        (&["index", "info", &none], &not_retrieved),
        (
            &["index", "info", &ztoc],
            "soci: the provided digest is of ztoc not SOCI index. Use \"soci ztoc info\" command to get detailed info of ztoc",
        ),
        (&["index", "rm", "--ref", "oci:none"], "soci: image \"oci:none\": not found"),
        (
            &["index", "rm", "--ref", "x", &index],
            "soci: please provide either index digests or image ref, but not both",
        ),
        (&["index", "rm", &ztoc], &format!("soci: the digest {ztoc} does not correspond to an index")),
        (&["index", "rm", &none], &format!("soci: the index of the digest {none} doesn't exist")),
        (
            &["index", "ls", "--ref", "oci:image:v1", "-p", "linux/arm64"],
            "soci: image manifest for platform linux/arm64: not found",
        ),
        (&["ztoc", "info", &none], &not_retrieved),
        (
            &["ztoc", "info", &index],
            "soci: the provided digest belongs to a SOCI index. Use `soci index info` to get the detailed information about it",
        ),
        (
            &["ztoc", "ls", "--ztoc-digest", &none, "--image-ref", "oci:image:v1"],
            "soci: the specified ztoc doesn't exist or is not associated with the specified image",
        ),
        (&["ztoc", "get-file"], "soci: please provide both a ztoc digest and a filename to extract"),
        (&["ztoc", "get-file", "xx", "x"], "soci: invalid checksum digest format"),
        (&["prefetch", "info", &none], &not_retrieved),
        (
            &["prefetch", "info", &index],
            "soci: the provided digest is not a prefetch artifact (type: soci_index)",
        ),
        (&["push"], "soci: please provide an image reference to push"),
        (
            &["push", "--existing-index", "no", "localhost/x"],
            "soci: unexpected value for flag existing-index: no, expected types [warn skip allow]",
        ),
    ];
    for (args, want) in cases {
        assert_eq!(place.soci.run(*args).failed(), *want, "{args:?}");
    }
    assert!(place.soci.run(["create", "--prefetch-files-json", "bad.json", "oci:image"]).failed().starts_with(
        "soci: failed to parse prefetch files: failed to load prefetch files from JSON: failed to parse JSON: "
    ));
    let wrong_flag = place.soci.run(["create", "--bogus"]);
    assert_eq!(wrong_flag.code, 1);
    let unknown = place.soci.run(["--content-store", "x", "index", "ls"]);
    assert!(
        unknown.stderr.contains("unknown content store type: x; must be one of [soci containerd]"),
        "{unknown:?}"
    );
    assert_eq!(place.soci.run(["prefetch", "info", &prefetch]).code, 0, "nothing was lost");
    assert_eq!(place.soci.run(["index", "rm"]).code, 0);
}

#[test]
fn a_damaged_layer_stops_the_build_and_names_itself() {
    let place = place();
    let [gz, tar, ..] = place.layers.as_slice() else { panic!("four layers") };
    let blob = |layer: &Descriptor| place.soci.dir().join("image/blobs/sha256").join(layer.digest.hex());
    let good = fs::read(blob(gz)).unwrap();
    let mut flipped = fs::read(blob(tar)).unwrap();
    flipped[100_000] ^= 1; // content: the tar can still be walked
    let create = || place.soci.run(["create", "--force", "--min-layer-size", "1000", "oci:image"]).failed();

    fs::write(blob(gz), &good[..good.len() / 2]).unwrap();
    let error = create();
    let want = format!(
        "soci: errors encountered while building soci layers; layer {}: layer has digest ",
        gz.digest
    );
    assert!(error.starts_with(&want), "{error}");
    fs::write(blob(gz), &good).unwrap();
    fs::write(blob(tar), &flipped).unwrap();
    let error = create();
    assert!(error.contains(&format!("layer {}: layer has digest sha256:", tar.digest)), "{error}");
    fs::remove_file(blob(tar)).unwrap();
    assert!(create().contains(&format!("{}: not found", tar.digest)));
    assert_eq!(place.soci.run(["index", "ls", "-q"]).ok(), "", "no index is recorded");
}

#[test]
fn end_rules_that_could_mean_two_things_are_refused_with_a_hint() {
    let place = Soci::new();
    for (rule, hint) in [
        ("log:cat or dog", r#"where " or " belongs to the rule before it, write " or\ ""#),
        ("tcp:80+5", "as in tcp:80+5s"),
        ("exit+5s", "nothing goes on after the workload's end"),
    ] {
        let refused = place.run(["record", "--image", "oci:nothing", "--until", rule]);
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains(hint), "{rule}: {}", refused.stderr);
    }
    let alone = place.run(["record", "--image", "oci:nothing", "--until", "ready+5s or 60s"]).failed();
    assert!(alone.contains("says nothing alone"), "{alone}");
}
