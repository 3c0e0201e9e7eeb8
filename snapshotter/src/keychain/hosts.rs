//! Names of registries as other programs write them. Holds no state.

/// Docker Hub's name in references.
const DOCKER_HUB: &str = "docker.io";

/// One name for each registry: Docker Hub has several.
pub(super) fn registry(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    }
}

/// The registry of an address such as `https://HOST[:PORT]/v1/`, or of a name; `None` when there is none in it.
pub(super) fn of_address(address: &str) -> Option<&str> {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    (!host.is_empty()).then(|| registry(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_of_addresses() {
        for (address, registry) in [
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("http://r.test:5000", Some("r.test:5000")),
            ("r.test/team/image", Some("r.test")),
            ("", None),
            ("https:///x", None),
        ] {
            assert_eq!(of_address(address), registry, "{address}");
        }
    }
}
