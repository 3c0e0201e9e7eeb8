//! `soci push` against a real registry server over HTTP, and what nodes find afterwards.

use bytes::Bytes;
use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::registry::{AuthMode, Habits, PASSWORD, Referrers, TestRegistry, USER};
use harness::soci::Soci;
use soci_core::digest::Digest;
use soci_core::image::{ImageSource, Manifest, Platform};
use soci_core::index::SociIndex;
use soci_core::media_type::{FINE_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, SOCI_INDEX_V1};
use soci_core::registry::{Registry, RegistryOptions};
use soci_core::ztoc::Bundle;

/// A place with an image on disk whose index is created.
fn place() -> Soci {
    let soci = Soci::new();
    let tar = |name: &str, seed| TarWriter::default().file(name, &half_random(300_000, seed)).finish();
    let blobs = [(OCI_LAYER_GZIP, gzip(&tar("a", 1), 6)), (OCI_LAYER_GZIP, gzip(&tar("b", 2), 6))];
    disk_image::write(&soci.dir().join("image"), "v1", &blobs);
    soci.run(["create", "--min-layer-size", "0", "--prefetch-file", "b", "oci:image"]).ok();
    soci
}

fn index_digest(soci: &Soci) -> Digest {
    soci.run(["index", "ls", "-q"]).ok().lines().next().unwrap().parse().unwrap()
}

/// Looks for the image's index as a node does.
async fn found(reference: &str) -> Option<SociIndex> {
    let registry = Registry::new(RegistryOptions::default());
    let source = ImageSource::parse(reference, &registry).unwrap();
    let manifest = source.resolve(&Platform::host()).await.unwrap().manifest;
    let repository = source.repository().unwrap();
    let listed = repository.referrers(&manifest.digest, Some(SOCI_INDEX_V1)).await.unwrap();
    let (raw, _, _) = repository.manifest(&listed.first()?.digest.to_string()).await.unwrap();
    Some(SociIndex::parse(raw).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn index_and_image_arrive_and_are_found_with_and_without_referrers_api() {
    for referrers in [Referrers::Api, Referrers::Status(404)] {
        let soci = place();
        let registry = TestRegistry::with(Habits { referrers, ..Habits::default() });
        let reference = format!("{}/app:v1", registry.host());
        let digest = index_digest(&soci);
        let out = soci.run(["push", "--image", "oci:image", &reference]).ok();
        assert!(out.contains("checking if a soci index already exists in remote repository...\n"), "{out}");
        assert!(out.contains(&format!("pushing soci index with digest: {digest}\n")), "{out}");
        assert!(out.ends_with(&format!(
            "pushing artifact with digest: {digest}\nsuccessfully pushed artifact with digest: {digest}\n"
        )));
        let (media_type, raw) = registry.manifest("app", &digest.to_string()).expect("the index is there");
        assert_eq!((media_type.as_str(), Digest::of(&raw)), (OCI_MANIFEST, digest));
        let index = found(&reference).await.expect("the index is found");
        assert_eq!(index.encode(), raw);
        for entry in &index.layers {
            assert_eq!(registry.blob(&entry.digest).map(|blob| blob.len() as u64), Some(entry.size));
        }
        // A name may say that it is a registry's.
        let again = ["push", "--existing-index", "allow", &format!("docker://{reference}")];
        assert!(soci.run(again).ok().contains(&digest.to_string()));

        let again = soci.run(["push", &reference]).ok();
        assert_eq!(
            again,
            format!(
                "checking if a soci index already exists in remote repository...\n\
                 [WARN] soci index found in remote repository with digest: {digest}: pushing index anyway\n\
                 pushing soci index with digest: {digest}\nskipped artifact with digest: {digest}\n"
            )
        );
        let manifest = index.subject.unwrap().digest;
        let skipped = soci.run(["push", "--existing-index", "skip", &reference]).ok();
        assert_eq!(
            skipped,
            format!(
                "checking if a soci index already exists in remote repository...\n\
                 soci index found in remote repository with digest: {digest}: skipping pushing artifacts for image manifest: {manifest}\n"
            )
        );
        let quiet = soci.run(["push", "-q", "--existing-index", "allow", &reference]).ok();
        assert_eq!(quiet, format!("{digest}\n"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fine_indexes_go_along_and_leave_one_soci_index_to_find() {
    for referrers in [Referrers::Api, Referrers::Status(404)] {
        let soci = place();
        let index = index_digest(&soci);
        let said =
            soci.run(["create", "--min-layer-size", "0", "--prefetch-file", "b", "--fine", "oci:image"]).ok();
        let (_, fine) = said.split_once("fine index -> ").expect("a line names it");
        let fine: Digest = fine.trim_end().parse().unwrap();
        assert_eq!(index_digest(&soci), index, "the SOCI index is the same with and without");
        let registry = TestRegistry::with(Habits { referrers, ..Habits::default() });
        let reference = format!("{}/app:v1", registry.host());
        let out = soci.run(["push", "--image", "oci:image", &reference]).ok();
        let done = |digest: Digest| format!("successfully pushed artifact with digest: {digest}\n");
        assert!(out.contains(&done(fine)) && out.ends_with(&done(index)), "the index goes last: {out}");

        let source = ImageSource::parse(&reference, &Registry::new(RegistryOptions::default())).unwrap();
        let image = source.resolve(&Platform::host()).await.unwrap().manifest.digest;
        let repository = source.repository().unwrap();
        let listed = async |kind| -> Vec<Digest> {
            let listed = repository.referrers(&image, Some(kind)).await.unwrap();
            listed.into_iter().map(|one| one.digest).collect()
        };
        assert_eq!(listed(SOCI_INDEX_V1).await, [index]);
        assert_eq!(listed(FINE_INDEX).await, [fine]);
        let (raw, _, _) = repository.manifest(&fine.to_string()).await.unwrap();
        let manifest = Manifest::parse(raw, OCI_MANIFEST).unwrap();
        let tables = registry.blob(&manifest.layers[0].digest).expect("the tables are there");
        let bundle = Bundle::open(tables).unwrap();
        assert_eq!(bundle.layers().count(), 2);
        for layer in bundle.layers() {
            assert!(bundle.table(&layer).unwrap().is_ok());
        }
        for blob in &manifest.layers {
            assert!(registry.blob(&blob.digest).is_some());
        }
        let again = soci.run(["push", "--existing-index", "allow", &reference]).ok();
        let skipped = |digest: Digest| format!("skipped artifact with digest: {digest}\n");
        assert!(again.contains(&skipped(fine)) && again.ends_with(&skipped(index)), "{again}");

        std::fs::remove_dir_all(soci.dir().join("root/artifacts")).unwrap();
        soci.run(["rebuild-db"]).ok();
        let again = soci.run(["push", "--existing-index", "allow", &reference]).ok();
        assert!(again.contains(&skipped(fine)) && again.ends_with(&skipped(index)), "{again}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_indexes_the_newest_is_found() {
    let soci = place();
    let registry = TestRegistry::with(Habits { referrers: Referrers::Status(404), ..Habits::default() });
    let reference = format!("{}/app:v1", registry.host());
    soci.run(["push", "-q", "--image", "oci:image", &reference]).ok();
    soci.run(["create", "--min-layer-size", "0", "--prefetch-file", "a,b", "oci:image"]).ok();
    soci.run(["push", "-q", &reference]).ok();
    let index = found(&reference).await.expect("an index is found");
    assert_eq!(Digest::of(&index.encode()), index_digest(&soci));
    assert_eq!(index.prefetch_artifacts().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_a_registry_gives_the_index_of_its_layout() {
    let soci = place();
    let registry = TestRegistry::start();
    let reference = format!("{}/app:v1", registry.host());
    assert!(found_nothing(&soci, &reference));
    soci.run(["push", "-q", "--image", "oci:image", &reference]).ok();
    let digest = index_digest(&soci);
    std::fs::remove_dir_all(soci.dir().join("root")).unwrap();
    std::fs::remove_dir_all(soci.dir().join("image")).unwrap();
    let args = ["create", "--min-layer-size", "0", "--prefetch-file", "b", &reference];
    soci.run(args).ok();
    assert_eq!(index_digest(&soci), digest);
    let table = soci.run(["index", "ls", "--ref", &reference]).ok();
    assert!(table.contains(&reference), "{table}");
    let ztoc = soci.run(["ztoc", "ls", "-q"]).ok().lines().next().unwrap().to_owned();
    let name = |name: &str| soci.run(["ztoc", "get-file", &ztoc, name]);
    let (a, b) = (name("a"), name("b"));
    let file = if a.code == 0 { (a.stdout, 1) } else { (b.stdout, 2) };
    let content = Bytes::from(half_random(300_000, file.1));
    assert_eq!(file.0.trim_end().as_bytes(), content, "through ranges of the registry's blob");
}

fn found_nothing(soci: &Soci, reference: &str) -> bool {
    let error = soci.run(["create", reference]).failed();
    error == format!("soci: image \"{reference}\": not found")
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_the_flags_and_refusals_are_clear() {
    let soci = place();
    let registry = TestRegistry::with(Habits { auth: AuthMode::Basic, ..Habits::default() });
    let reference = format!("{}/app:v1", registry.host());
    let refused = soci.run(["push", "--image", "oci:image", &reference]);
    assert!(refused.stderr.contains("hint: log in to the registry"), "{refused:?}");
    refused.failed();
    let user = format!("{USER}:{PASSWORD}");
    soci.run(["push", "-q", "--user", &user, "--image", "oci:image", &reference]).ok();
    let (_, raw) = registry.manifest("app", &index_digest(&soci).to_string()).unwrap();
    assert!(String::from_utf8_lossy(&raw).contains(SOCI_INDEX_V1));
}

#[test]
fn an_image_without_index_is_refused() {
    let soci = place();
    let registry = TestRegistry::start();
    let reference = format!("{}/app:v1", registry.host());
    soci.run(["index", "rm", "--ref", "oci:image"]).ok();
    let error = soci.run(["push", "--image", "oci:image", "-p", "linux/amd64", &reference]).failed();
    assert_eq!(error, "soci: could not find any soci index manifest v1 to push for platform linux/amd64");
}
