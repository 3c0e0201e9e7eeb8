//! Content that is named by a digest is that content or an error, whatever the algorithm; and other exact names.

use harness::registry::TestRegistry;
use soci_core::digest::Digest;
use soci_core::image::{ImageSource, Platform};
use soci_core::media_type::{OCI_INDEX, OCI_MANIFEST};
use soci_core::registry::{Registry, RegistryError, RegistryOptions};

const MANIFEST: &[u8] = b"{\"schemaVersion\":2}";
/// Of [`MANIFEST`], by sha384sum and sha512sum.
const SHA384: &str =
    "sha384:a97ee35ffacc7feba25058e0a2f80e5fbf6c31ff61bfb638c750155fca8ff5fed40728e91d605c6d949fc8c085c553e6";
const SHA512: &str = "sha512:63f87a5b21b700711f6dd1cabacfdea21e33fb2fb220d00be07d7fcd1de3f085e5b7ee51c25be6b9a5f054d904f36da93e0fff53fdd5fb223acd8075bc5ff465";

#[tokio::test]
async fn a_pin_of_any_algorithm_is_checked_or_refused() {
    let registry = TestRegistry::start();
    let digest = registry.put_manifest("a", Some("v1"), OCI_MANIFEST, MANIFEST);
    let client = Registry::new(RegistryOptions::default());
    let repository = client.repository(&registry.image("a").parse().unwrap());
    let upper = digest.to_string().to_uppercase().replace("SHA256", "sha256");
    let sha256 = digest.to_string();
    for pin in [&sha256, &upper, SHA384, SHA512, &SHA512.to_uppercase().replace("SHA512", "sha512")] {
        registry.serve_as("a", &pin.to_lowercase(), OCI_MANIFEST, MANIFEST);
        let (raw, found, _) = repository.manifest(pin).await.unwrap();
        assert_eq!((&raw[..], found), (MANIFEST, digest), "{pin}");

        registry.serve_as("a", &pin.to_lowercase(), OCI_MANIFEST, &b"{\"schemaVersion\":2 }"[..]);
        let error = repository.manifest(pin).await.unwrap_err();
        assert!(matches!(error, RegistryError::Digest { .. }), "{pin}: {error:?}");
    }
    registry.forget_requests();
    for pin in ["md5:0123456789abcdef0123456789abcdef", "sha512:00", "sha1:00", "blake3:00"] {
        assert!(matches!(repository.manifest(pin).await, Err(RegistryError::Protocol { .. })), "{pin}");
    }
    assert!(registry.requests().is_empty(), "nobody is asked for what cannot be checked");
}

#[tokio::test]
async fn an_image_by_a_pin_of_another_algorithm_is_the_one_that_was_meant() {
    let registry = TestRegistry::start();
    registry.serve_as("a", SHA512, OCI_MANIFEST, &b"{\"schemaVersion\":2,\"config\":{}}"[..]);
    let client = Registry::new(RegistryOptions::default());
    let source = ImageSource::parse(&format!("{}@{SHA512}", registry.image("a")), &client).unwrap();
    let error = source.resolve(&Platform::host()).await.unwrap_err();
    assert!(format!("{error:?}").contains("Digest"), "{error:?}");
}

#[tokio::test]
async fn a_list_served_under_a_general_type_is_a_list() {
    let registry = TestRegistry::start();
    let config = registry.put_blob(
        &b"{\"architecture\":\"arm\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}"[..],
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{config}","size":76}},"layers":[]}}"#
    );
    let size = manifest.len();
    let manifest = registry.put_manifest("a", None, OCI_MANIFEST, manifest);
    let entry = |variant: &str| {
        format!(
            r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{manifest}","size":{size},
                "platform":{{"os":"linux","architecture":"arm","variant":{variant}}}}}"#
        )
    };
    let client = Registry::new(RegistryOptions::default());
    for (tag, media_type, variant, asked) in [
        ("json", "application/json", "\"v7\"", "linux/arm"),
        ("none", "", "\"v7\"", "linux/arm/v7"),
        ("lower", OCI_INDEX, "\"v6\"", "linux/arm"),
        ("null", OCI_INDEX, "null", "linux/arm/7"),
    ] {
        let odd = r#"{"mediaType":"x","digest":"sha512:00","size":1},null"#;
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{odd},{}]}}"#, entry(variant));
        registry.put_manifest("a", Some(tag), media_type, index);
        let source = ImageSource::parse(&format!("{}:{tag}", registry.image("a")), &client).unwrap();
        let image = source.resolve(&asked.parse().unwrap()).await.unwrap();
        assert_eq!(image.manifest.digest, manifest, "{tag}");
        assert!(source.resolve(&"linux/arm/v5".parse().unwrap()).await.is_err(), "{tag}");
    }
    let both = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":76}},"layers":[],"manifests":[{{}}]}}"#
    );
    registry.put_manifest("a", Some("both"), OCI_MANIFEST, both);
    let source = ImageSource::parse(&format!("{}:both", registry.image("a")), &client).unwrap();
    let error = source.resolve(&Platform::host()).await.unwrap_err().to_string();
    assert!(error.contains("fields of a list of manifests"), "{error}");
    assert_eq!(Digest::of(MANIFEST).to_string().len(), 71);
}

#[test]
fn a_registry_at_an_ipv6_address_is_reached() {
    let registry = TestRegistry::on("[::1]:0");
    registry.put_manifest("a", Some("v1"), OCI_MANIFEST, MANIFEST);
    assert!(registry.host().starts_with("[::1]:"), "{}", registry.host());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = Registry::new(RegistryOptions::default());
        let repository = client.repository(&registry.image("a").parse().unwrap());
        assert_eq!(repository.manifest("v1").await.unwrap().0, MANIFEST);
    });
}
