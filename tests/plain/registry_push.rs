//! Pushes to registries with manners of their own: everything arrives, is listed, and nothing of others is lost.

use std::time::Duration;

use bytes::Bytes;
use harness::faults::{Fault, When};
use harness::registry::{Habits, Referrers, TestRegistry};
use soci_core::digest::Digest;
use soci_core::image::Descriptor;
use soci_core::media_type::{OCI_INDEX, OCI_MANIFEST, SOCI_INDEX_V1};
use soci_core::registry::{
    Content, Referrer, Registry, RegistryError, RegistryOptions, Repository, RetryPolicy, Timeouts,
};

fn client() -> Registry {
    Registry::new(RegistryOptions {
        retry: RetryPolicy { max_retries: 3, min_wait: Duration::from_millis(1), ..RetryPolicy::default() },
        timeouts: Timeouts { header: Duration::from_millis(300), ..Timeouts::default() },
        ..RegistryOptions::default()
    })
}

fn repository(registry: &TestRegistry) -> Repository {
    client().repository(&registry.image("a").parse().unwrap())
}

fn subject() -> Digest {
    Digest::of(b"subject")
}

fn referrer(number: usize) -> Referrer {
    let (subject, empty) = (subject(), Digest::of(b"{}"));
    let raw = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{SOCI_INDEX_V1}","digest":"{empty}","size":2}},"layers":[],"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{subject}","size":7}},"annotations":{{"n":"{number}"}}}}"#
    );
    let mut descriptor = Descriptor::new(OCI_MANIFEST, Digest::of(raw.as_bytes()), raw.len() as u64);
    descriptor.artifact_type = Some(SOCI_INDEX_V1.to_owned());
    Referrer { descriptor, raw: raw.into() }
}

fn digests(mut found: Vec<Descriptor>) -> Vec<Digest> {
    found.sort_unstable_by_key(|one| one.digest);
    found.into_iter().map(|one| one.digest).collect()
}

#[tokio::test]
async fn referrers_are_found_at_each_registry() {
    for referrers in Referrers::ALL {
        let registry = TestRegistry::with(Habits { referrers, ..Habits::default() });
        let repository = repository(&registry);
        let sent = [referrer(1), referrer(2), referrer(3)];
        let mut unlisted = Vec::new();
        for one in &sent {
            if !repository.push_referrer(one).await.unwrap() {
                unlisted.push(one.clone());
            }
        }
        assert_eq!(unlisted.is_empty(), referrers.has_list(), "{referrers:?}");
        repository.list_referrers(&subject(), &unlisted).await.unwrap();
        let expected = digests(sent.iter().map(|one| one.descriptor.clone()).collect());
        for kind in [None, Some(SOCI_INDEX_V1)] {
            let found = repository.referrers(&subject(), kind).await.unwrap();
            assert_eq!(digests(found), expected, "{referrers:?}");
        }
        let tag = format!("/manifests/sha256-{}", subject().hex());
        let written =
            registry.requests().iter().filter(|one| one.method == "PUT" && one.path.contains(&tag)).count();
        assert_eq!(written, usize::from(!referrers.has_list()), "one write for all: {referrers:?}");
    }
}

#[tokio::test]
async fn what_others_have_in_the_referrers_tag_stays_byte_by_byte() {
    let registry = TestRegistry::with(Habits { referrers: Referrers::Status(404), ..Habits::default() });
    let tag = format!("sha256-{}", subject().hex());
    let entries =
        r#"{"digest":"sha512:00", "mediaType":"x","size":1,"new":{"z":1.0,"a":[ ]}},{"mediaType":null}"#;
    let fields = r#""schemaVersion":2,"annotations":{"of":"others"},"future":[1, 2]"#;
    registry.put_manifest("a", Some(&tag), OCI_INDEX, format!("{{{fields},\"manifests\":[{entries}]}}"));
    let repository = repository(&registry);
    repository.push_referrer(&referrer(1)).await.unwrap();
    repository.list_referrers(&subject(), &[referrer(1)]).await.unwrap();
    let (_, raw) = registry.manifest("a", &tag).unwrap();
    let text = std::str::from_utf8(&raw).unwrap();
    assert!(text.starts_with(&format!("{{{fields},\"manifests\":[{{")), "{text}");
    assert!(text.ends_with(&format!(",{entries}]}}")), "{text}");
    assert_eq!(
        digests(repository.referrers(&subject(), None).await.unwrap()),
        [referrer(1).descriptor.digest]
    );
}

#[tokio::test]
async fn tags_that_cannot_be_changed_are_written_once_and_named_when_refused() {
    for status in [400, 409, 412] {
        let habits =
            Habits { referrers: Referrers::Status(404), immutable_tags: Some(status), ..Habits::default() };
        let registry = TestRegistry::with(habits);
        let repository = repository(&registry);
        let both = [referrer(1), referrer(2)];
        for one in &both {
            repository.push_referrer(one).await.unwrap();
        }
        for _ in 0..2 {
            repository.list_referrers(&subject(), &both).await.unwrap();
        }
        repository.push_referrer(&referrer(3)).await.unwrap();
        let error = repository.list_referrers(&subject(), &[referrer(3)]).await.unwrap_err();
        assert!(
            matches!(&error, RegistryError::ReferrersTag { tag, .. } if tag.ends_with(&subject().hex())),
            "{error:?}"
        );
        assert_eq!(repository.referrers(&subject(), None).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn a_registry_that_learns_of_subjects_later_gets_what_it_has_again() {
    let registry = TestRegistry::start();
    let repository = repository(&registry);
    let one = referrer(1);
    repository.push_referrer(&one).await.unwrap();
    // It has the manifest, but not in its list: as after an upgrade.
    registry.remove_manifest("a", &one.descriptor.digest.to_string());
    repository.list_referrers(&subject(), std::slice::from_ref(&one)).await.unwrap();
    assert_eq!(repository.referrers(&subject(), None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_registry_that_lists_nothing_is_an_error() {
    let registry = TestRegistry::start();
    registry
        .faults()
        .add(When::path("/referrers/").method("GET"), Fault::Body(r#"{"schemaVersion":2,"manifests":[]}"#));
    let repository = repository(&registry);
    let one = referrer(1);
    let error = repository.list_referrers(&subject(), std::slice::from_ref(&one)).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::NotListed { digest, .. } if digest == one.descriptor.digest),
        "{error:?}"
    );
}

#[tokio::test]
async fn lists_of_referrers_have_a_limit_for_all_pages_together() {
    let page =
        format!(r#"{{"schemaVersion":2,"annotations":{{"a":"{}"}},"manifests":[]}}"#, "x".repeat(6 << 20));
    let registry = TestRegistry::start();
    registry.faults().add(When::path("/referrers/"), Fault::Page(page.leak()));
    let error = repository(&registry).referrers(&subject(), None).await.unwrap_err();
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");
    assert_eq!(registry.requests().len(), 3);
}

fn blob() -> (Digest, Bytes) {
    let bytes: Vec<_> = (0..20_u32 << 20).map(|n| (n / 4096 % 251) as u8).collect();
    (Digest::of(&bytes), bytes.into())
}

#[tokio::test]
async fn the_registry_has_time_to_put_a_large_upload_together() {
    let registry = TestRegistry::with(Habits { max_upload: 16 << 20, ..Habits::default() });
    let (digest, bytes) = blob();
    registry.faults().add_times(When::path("digest=").method("PUT"), Fault::Status(503, None), 1);
    // Longer than an answer may take otherwise, connecting included.
    registry.faults().add(When::path("digest=").method("PUT"), Fault::Latency(Duration::from_secs(4)));
    assert!(repository(&registry).push_blob(&digest, Content::Bytes(bytes.clone())).await.unwrap());
    assert!(registry.blob(&digest).unwrap() == bytes);
}

#[tokio::test]
async fn an_upload_that_got_out_of_step_goes_on_where_the_registry_is() {
    let registry = TestRegistry::with(Habits { max_upload: 16 << 20, ..Habits::default() });
    let (digest, bytes) = blob();
    registry.faults().add_times(When::always().method("PATCH"), Fault::Status(416, None), 2);
    assert!(repository(&registry).push_blob(&digest, Content::Bytes(bytes.clone())).await.unwrap());
    assert!(registry.blob(&digest).unwrap() == bytes);

    registry.remove_blob(&digest);
    registry.faults().add(When::always().method("PATCH"), Fault::Status(416, None));
    let error = repository(&registry).push_blob(&digest, Content::Bytes(bytes)).await.unwrap_err();
    // A registry that answers before it has read all may hang up while we send.
    let hung_up = matches!(error, RegistryError::Transport { .. });
    assert!(hung_up || matches!(error, RegistryError::Status { status: 416, .. }), "{error:?}");
}

#[tokio::test]
async fn the_answer_to_the_last_put_may_get_lost() {
    let registry = TestRegistry::with(Habits { max_upload: 16 << 20, ..Habits::default() });
    let (digest, bytes) = blob();
    registry.faults().add_times(When::path("digest=").method("PUT"), Fault::Lost, 1);
    assert!(repository(&registry).push_blob(&digest, Content::Bytes(bytes.clone())).await.unwrap());
    assert!(registry.blob(&digest).unwrap() == bytes);
}
