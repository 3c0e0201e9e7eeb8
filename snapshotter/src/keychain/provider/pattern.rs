//! Which images a pattern of `matchImages`, or a key of a provider's answer, is for. Holds no state.
//!
//! As the kubelet has it: the host has as many parts as the pattern's, each of which fits it as a glob does; the ports are the
//! same, or neither has one; the path begins with the pattern's.

use glob::Pattern;

use crate::keychain::hosts;

/// Host, port and path of a name without a scheme.
#[derive(Debug, PartialEq, Eq)]
struct Parts<'a> {
    host: &'a str,
    port: &'a str,
    path: &'a str,
}

/// Whether `image` (`HOST[:PORT]/REPOSITORY`) is one that `pattern` is for. What is no pattern is for none.
pub(super) fn is_for(pattern: &str, image: &str) -> bool {
    let (pattern, image) = (parts(pattern), parts(image));
    let fits = |(glob, part): (&str, &str)| Pattern::new(glob).is_ok_and(|glob| glob.matches(part));
    pattern.port == image.port
        && image.path.starts_with(pattern.path)
        && pattern.host.split('.').count() == image.host.split('.').count()
        && pattern.host.split('.').zip(image.host.split('.')).all(fits)
}

fn parts(name: &str) -> Parts<'_> {
    let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://")).unwrap_or(name);
    let (address, path) = name.split_once('/').unwrap_or((name, ""));
    let port = address.rfind(':').filter(|&at| !address[at..].contains(']'));
    let (host, port) = port.map_or((address, ""), |at| (&address[..at], &address[at + 1..]));
    // An address of IPv6 is no set of letters.
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    Parts { host: hosts::registry(host), port, path: path_of(path) }
}

/// Docker's keys end in the version of an API that is gone.
fn path_of(path: &str) -> &str {
    let path = ["v1/", "v2/"].iter().find_map(|version| path.strip_prefix(version)).unwrap_or(path);
    if matches!(path, "v1" | "v2" | "/") { "" } else { path }
}

#[cfg(test)]
mod tests {
    use super::is_for;

    #[test]
    fn patterns_of_the_kubelets_documentation() {
        for (pattern, image) in [
            ("123456789.dkr.ecr.us-east-1.amazonaws.com", "123456789.dkr.ecr.us-east-1.amazonaws.com/a"),
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-3.amazonaws.com/team/a"),
            ("*.azurecr.io", "team.azurecr.io/a"),
            ("gcr.io", "gcr.io/a/b"),
            ("*.*.registry.io", "a.b.registry.io/x"),
            ("registry.io:8080/path", "registry.io:8080/path/image"),
            ("foo.registry.io:8080/path", "foo.registry.io:8080/pathfinder"),
            ("k8s.*", "k8s.io/pause"),
            ("app*.k8s.io", "app-7.k8s.io/x"),
            ("a?.[bc].io", "ax.b.io/x"),
            ("127.0.0.1:5000", "127.0.0.1:5000/x"),
            ("[::1]:5000", "[::1]:5000/x"),
            ("docker.io", "docker.io/library/redis"),
            ("https://index.docker.io/v1/", "docker.io/library/redis"),
        ] {
            assert!(is_for(pattern, image), "{pattern} {image}");
        }
        for (pattern, image) in [
            ("*.io", "a.b.io/x"),
            ("*", "a.io/x"),
            ("*.registry.io", "registry.io/x"),
            ("registry.io:8080", "registry.io/x"),
            ("registry.io", "registry.io:8080/x"),
            ("registry.io:80*", "registry.io:8080/x"),
            ("registry.io/path", "registry.io/other"),
            ("registry.io/*/x", "registry.io/a/x"),
            ("***.io", "a.io/x"),
            ("[a.io", "a.io/x"),
            ("", "a.io/x"),
        ] {
            assert!(!is_for(pattern, image), "{pattern} {image}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_pattern_is_survived(pattern in "\\PC{0,30}", image in "\\PC{0,30}") {
            is_for(&pattern, &image);
        }
    }
}
