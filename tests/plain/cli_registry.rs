//! The flags of `soci` that say how a registry is spoken to, and proxies, against real servers.

use std::fs;

use harness::disk_image::{self, half_random};
use harness::image::{TarWriter, gzip};
use harness::proxy::Proxy;
use harness::registry::{AuthMode, Habits, IDENTITY_TOKEN, PASSWORD, TestRegistry, USER};
use harness::soci::{Outcome, Soci};
use harness::tls::TlsFront;
use soci_core::media_type::OCI_LAYER_GZIP;

/// A registry that has an image with its index.
struct Place {
    soci: Soci,
    registry: TestRegistry,
    index: String,
}

fn place(habits: Habits) -> Place {
    let soci = Soci::new();
    let tar = TarWriter::default().file("a", &half_random(300_000, 1)).finish();
    disk_image::write(&soci.dir().join("image"), "v1", &[(OCI_LAYER_GZIP, gzip(&tar, 6))]);
    soci.run(["create", "--min-layer-size", "0", "oci:image"]).ok();
    let registry = TestRegistry::with(habits);
    let user = format!("{USER}:{PASSWORD}");
    let reference = registry.image("app:v1");
    let index = soci.run(["push", "-q", "--user", &user, "--image", "oci:image", &reference]).ok();
    registry.forget_requests();
    Place { soci, registry, index }
}

impl Place {
    fn list(&self, variables: &[(&str, &str)], host: &str, flags: &[&str]) -> Outcome {
        let image = format!("{host}/app:v1");
        let words = [&["index", "list", "--quiet", "--remote", &image], flags].concat();
        self.soci.run_with(variables, words)
    }

    /// That the index is found.
    #[track_caller]
    fn finds(&self, variables: &[(&str, &str)], host: &str, flags: &[&str]) {
        assert_eq!(self.list(variables, host, flags).ok(), self.index, "{flags:?}");
    }
}

#[test]
fn certificates_by_flags_mean_tls_on_loopback_too() {
    let place = place(Habits::default());
    for ask in [false, true] {
        let front = TlsFront::new(place.registry.host().parse().unwrap(), ask);
        front.write(place.soci.dir());
        let attempt = |flags: &[&str]| place.list(&[], &front.host(), flags);
        let trusted = ["--tlscacert", "ca.pem"];
        let known = ["--tlscert", "client.cert", "--tlskey", "client.key"];
        place.finds(&[], &front.host(), &[trusted, [known[0], known[1]], [known[2], known[3]]].concat());
        place.finds(&[], &front.host(), &[&["--skip-verify"], &known[..]].concat());
        if ask {
            attempt(&trusted).failed();
        } else {
            place.finds(&[], &front.host(), &trusted);
            place.finds(&[], &front.host(), &["-k"]);
            attempt(&known).failed();
        }
        let half = attempt(&known[..2]);
        assert!(half.code == 1 && half.stderr.contains("--tlskey"), "{half:?}");
    }
    let missing = place.list(&[], &place.registry.host(), &["--tlscacert", "absent.pem"]).failed();
    assert_eq!(missing, "soci: cannot read absent.pem: no such file or directory");
}

#[test]
fn a_refresh_token_is_a_credential() {
    let place = place(Habits { auth: AuthMode::Bearer, ..Habits::default() });
    let host = place.registry.host();
    place.finds(&[], &host, &["--refresh", IDENTITY_TOKEN]);
    assert!(place.list(&[], &host, &["--refresh", "wrong"]).code == 1);
    let both = place.list(&[], &host, &["--refresh", "x", "--user", "y"]);
    assert!(both.code == 1 && both.stderr.contains("cannot be used with"), "{both:?}");
}

#[test]
fn hosts_toml_of_the_directory_given_says_where_a_registry_is() {
    let place = place(Habits::default());
    let own = place.soci.dir().join("hosts/registry.test");
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("hosts.toml"), format!("server = \"http://{}\"\n", place.registry.host())).unwrap();
    place.finds(&[], "registry.test", &["--hosts-dir", "hosts"]);

    let front = TlsFront::new(place.registry.host().parse().unwrap(), false);
    front.write(&own);
    let stated = format!("server = \"https://{}\"\n", front.host());
    fs::write(own.join("hosts.toml"), format!("{stated}ca = \"ca.pem\"\n")).unwrap();
    place.finds(&[], "registry.test", &["--hosts-dir", "hosts"]);
}

#[test]
fn requests_and_answers_are_printed_without_secrets() {
    let place = place(Habits { auth: AuthMode::Bearer, ..Habits::default() });
    let host = place.registry.host();
    for flag in ["--http-dump", "--http-trace"] {
        let said = place.list(&[], &host, &[flag, "--user", &format!("{USER}:{PASSWORD}")]);
        assert_eq!((said.code, said.stdout.trim_end()), (0, place.index.trim_end()), "{said:?}");
        let said = said.stderr;
        let asked = format!("http req GET http://{host}/v2/app/manifests/v1\n");
        assert!(said.contains(&asked), "{said}");
        assert!(said.contains("http res 401 Unauthorized\n") && said.contains("http res 200 OK\n"), "{said}");
        assert!(!said.contains(PASSWORD), "{said}");
    }
}

#[test]
fn proxies_are_used_for_other_machines_and_never_for_this_one() {
    let place = place(Habits::default());
    let plain = Proxy::new(place.registry.host().parse().unwrap());
    let front = TlsFront::new(place.registry.host().parse().unwrap(), false);
    let tunnel = Proxy::new(front.host().parse().unwrap());
    let (plain_url, tunnel_url) = (plain.url(), tunnel.url());
    // Only the proxies know what this name stands for.
    let proxies =
        [("HTTP_PROXY", plain_url.as_str()), ("HTTPS_PROXY", tunnel_url.as_str()), ("NO_PROXY", "")];
    place.finds(&proxies, "registry.test", &["--plain-http"]);
    let asked = plain.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|line| line.contains(" http://registry.test/v2/")),
        "{asked:?}"
    );
    assert!(tunnel.asked().is_empty());

    place.finds(&proxies, "registry.test", &["-k"]);
    let asked = tunnel.asked();
    assert!(!asked.is_empty(), "TLS goes through a tunnel");
    assert!(asked.iter().all(|line| line == "CONNECT registry.test:443 HTTP/1.1"), "{asked:?}");

    let before = (plain.asked(), tunnel.asked());
    place.finds(&proxies, &place.registry.host(), &[]);
    place.finds(&proxies, &front.host(), &["-k"]);
    assert_eq!((plain.asked(), tunnel.asked()), before);
    // A name that is said to need no proxy is looked up here, where nobody knows it.
    let exempt = [proxies[0], proxies[1], ("NO_PROXY", "registry.test")];
    assert_eq!(place.list(&exempt, "registry.test", &["-k"]).code, 1);
    assert_eq!((plain.asked(), tunnel.asked()), before);
}

#[test]
fn a_machine_without_certificates_is_told_so_only_when_it_speaks_tls() {
    let place = place(Habits::default());
    let none = [("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")];
    let plain = place.list(&none, &place.registry.host(), &[]);
    assert!(!plain.stderr.contains("no system certificates"), "{plain:?}");
    assert_eq!(plain.ok(), place.index);
    let front = TlsFront::new(place.registry.host().parse().unwrap(), false);
    front.write(place.soci.dir());
    let tls = place.list(&none, &front.host(), &["--tlscert", "client.cert", "--tlskey", "client.key"]);
    assert!(tls.code == 1 && tls.stderr.contains("no system certificates"), "{tls:?}");
    let own = place.list(&none, &front.host(), &["--tlscacert", "ca.pem"]);
    assert!(!own.stderr.contains("no system certificates"), "an authority that is given is enough: {own:?}");
    assert_eq!(own.ok(), place.index);
}
