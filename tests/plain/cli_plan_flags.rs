//! What `create`, `convert` and `pack create` make of a recording: good defaults, globs, budgets, and `--dry-run`.

use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::soci::Soci;
use serde_json::Value;
use soci_core::media_type::OCI_LAYER_GZIP;

/// An image of two layers with a trace that needs all of its files, in the order of the list.
fn place() -> Soci {
    let soci = Soci::new();
    let low = TarWriter::default().file("a", &half_random(2200 << 10, 1)).finish();
    let high =
        TarWriter::default().file("dir/b.pyc", &half_random(300 << 10, 2)).file("dir/c", b"c\n").finish();
    let layers = [(OCI_LAYER_GZIP, gzip(&low, 6)), (OCI_LAYER_GZIP, gzip(&high, 6))];
    disk_image::write(&soci.dir().join("image"), "v1", &layers);
    std::fs::write(soci.dir().join("list"), "/a\n/dir/b.pyc\n/dir/c\n").unwrap();
    soci.run("trace import -f paths --image oci:image -o own.trace list".split(' ')).ok();
    let _ = std::fs::remove_dir_all(soci.dir().join("root"));
    soci
}

#[track_caller]
fn json(soci: &Soci, words: &str) -> Value {
    let outcome = soci.run(words.split_whitespace());
    assert_eq!(outcome.code, 0, "{words}: {}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stdout))
}

fn count(value: &Value) -> usize {
    value.as_array().unwrap_or_else(|| panic!("{value} is no array")).len()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn with_a_recording_the_defaults_are_the_good_ones() {
    let soci = place();
    let made = |words: &str| json(&soci, &format!("create --json {words} oci:image"))["indexes"][0].clone();
    let good = made("--trace own.trace");
    assert_eq!((count(&good["fine_indexes"]), count(&good["packs"]), count(&good["plans"])), (1, 1, 1));
    let spelled = made(
        "--trace own.trace --span-layout trace --min-layer-size 1MiB --fine --fine-span-size 256KiB --pack",
    );
    assert_eq!(good["digest"], spelled["digest"]);
    assert_eq!(good["packs"], spelled["packs"]);
    let bare = made("--trace own.trace --no-fine --no-pack");
    assert_eq!((count(&bare["fine_indexes"]), count(&bare["packs"])), (0, 0));
    assert_eq!(bare["digest"], good["digest"], "what upstream reads is the same");
    // Without one, nothing is other than upstream's.
    let plain = made("--min-layer-size 1MiB");
    assert_eq!((count(&plain["fine_indexes"]), count(&plain["packs"]), count(&plain["plans"])), (0, 0, 0));
    assert_eq!(
        plain["digest"],
        made("--min-layer-size 1MiB --span-layout upstream --no-fine --no-pack")["digest"]
    );
    let refused = soci.run("create --fine-span-size 64KiB oci:image".split(' '));
    assert!(refused.stderr.contains("hint: add --fine, or a --trace or --profile"), "{}", refused.stderr);
}

#[test]
fn globs_narrow_what_is_fetched_ahead() {
    let soci = place();
    let plan = |words: &str| {
        let made =
            json(&soci, &format!("create --json --min-layer-size 0 --trace own.trace {words} oci:image"));
        let index = &made["indexes"][0];
        (index["plans"][0].clone(), number(&index["packs"][0]["plain_size"]))
    };
    let (all, whole) = plan("");
    assert_eq!((number(&all["files"]), number(&all["left_out"]["excluded"]["files"])), (3, 0));
    let (without, less) = plan("--exclude *.pyc");
    assert_eq!((number(&without["files"]), number(&without["left_out"]["excluded"]["files"])), (2, 1));
    assert_eq!(
        number(&without["bytes"]) + number(&without["left_out"]["excluded"]["bytes"]),
        number(&all["bytes"])
    );
    assert!(less + (300 << 10) <= whole, "{less} of {whole} bytes are packed");
    assert!(number(&without["prefetch"]["bytes"]) < number(&all["prefetch"]["bytes"]));
    let (dir, _) = plan("--include /dir --exclude /dir/b*");
    assert_eq!((number(&dir["files"]), number(&dir["left_out"]["excluded"]["files"])), (1, 2));
    let packs = json(&soci, "pack create --json --trace own.trace --include /dir --name dir oci:image");
    assert_eq!(number(&packs["plans"][0]["files"]), 2);
    assert!(packs["plans"][0]["prefetch"].is_null());

    for (words, message) in [
        ("create --trace own.trace --exclude / oci:image", "leave none of 3 files that are needed"),
        ("create --exclude /dir oci:image", "narrow what a recording needs, and there is none"),
        ("pack create --trace own.trace --include a[ oci:image", "is no glob"),
    ] {
        let refused = soci.run(words.split_whitespace());
        assert!(refused.stderr.contains(message) && refused.stderr.contains("hint: "), "{}", refused.stderr);
        assert_eq!(refused.code, 1);
    }
}

#[test]
fn a_budget_leaves_out_the_spans_that_are_needed_last() {
    let soci = place();
    let plan = |words: &str| {
        let made =
            json(&soci, &format!("create --json --min-layer-size 0 --trace own.trace {words} oci:image"));
        made["indexes"][0].clone()
    };
    let all = plan("--span-layout upstream --span-size 64KiB");
    let (spans, bytes) =
        (number(&all["plans"][0]["prefetch"]["spans"]), number(&all["plans"][0]["prefetch"]["bytes"]));
    let cut = plan("--span-layout upstream --span-size 64KiB --prefetch-budget 1MB");
    let prefetch = &cut["plans"][0]["prefetch"];
    assert!(number(&prefetch["bytes"]) <= 1_000_000 && number(&prefetch["bytes"]) > 800_000, "{prefetch}");
    assert_eq!(number(&prefetch["spans"]) + number(&prefetch["cut_spans"]), spans);
    assert_eq!(number(&prefetch["bytes"]) + number(&prefetch["cut_bytes"]), bytes);
    // What is needed first is in the lower layer, and all of the budget goes there.
    let named: Vec<&Value> =
        cut["layers"].as_array().unwrap().iter().filter(|layer| !layer["prefetch"].is_null()).collect();
    assert_eq!(named.len(), 1, "{cut}");
    let artifact = json(&soci, &format!("prefetch info --json {}", named[0]["prefetch"].as_str().unwrap()));
    let listed = artifact["prefetch_spans"].as_array().unwrap();
    let total: u64 = listed.iter().map(|one| number(&one["end_span"]) + 1 - number(&one["start_span"])).sum();
    assert_eq!(total, number(&prefetch["spans"]));
    assert_eq!(number(&listed[0]["start_span"]), 0);
    let none = plan("--prefetch-budget 1");
    assert_eq!(number(&none["plans"][0]["prefetch"]["spans"]), 0);
    assert!(none["layers"].as_array().unwrap().iter().all(|layer| layer["prefetch"].is_null()), "{none}");
    let said = soci.run("create --trace own.trace --prefetch-budget 10% oci:image".split(' '));
    assert!(said.stderr.contains("note: --prefetch-budget leaves out "), "{}", said.stderr);
}

#[test]
fn a_dry_run_says_what_would_be_made_and_keeps_nothing() {
    let soci = place();
    let root = soci.dir().join("root");
    let dry = json(&soci, "create --json --dry-run --trace own.trace oci:image");
    assert!(!root.exists() && dry["dry_run"] == true);
    let convert = "--standalone --format oci-dir --json --trace own.trace oci:image out";
    let converted = json(&soci, &format!("convert --dry-run {convert}"));
    assert!(!root.exists() && !soci.dir().join("out").exists());
    let pack = "pack create --json --trace own.trace oci:image";
    let alone = json(&soci, &format!("{pack} --dry-run"));
    assert!(!root.exists());

    let said = soci.run("create --dry-run --trace own.trace oci:image".split(' '));
    for line in
        ["plan:        3 files, ", "prefetch:    ", "pack:        ", "dry run:     nothing of this was kept"]
    {
        assert!(said.stderr.lines().any(|said| said.starts_with(line)), "{line}: {}", said.stderr);
    }
    assert!(said.stdout.contains("pack -> "), "{}", said.stdout);

    let made = json(&soci, "create --json --trace own.trace oci:image");
    assert_eq!(made["dry_run"], false);
    for key in ["digest", "plans", "fine_indexes", "packs"] {
        assert_eq!(made["indexes"][0][key], dry["indexes"][0][key], "{key}");
    }
    let really = json(&soci, &format!("convert {convert}"));
    assert_eq!((&really["digest"], &really["packs"]), (&converted["digest"], &converted["packs"]));
    assert!(soci.dir().join("out/index.json").is_file());
    // Beside an index, the pack is of the layers that the index has, in a rehearsal too.
    let before = soci.run(["pack", "list", "--json"]).ok();
    let beside = json(&soci, &format!("{pack} --name other --dry-run"));
    assert_eq!(soci.run(["pack", "list", "--json"]).ok(), before);
    assert_eq!(json(&soci, &format!("{pack} --name other"))["packs"], beside["packs"]);
    assert_eq!(count(&alone["packs"]), 1);
}
