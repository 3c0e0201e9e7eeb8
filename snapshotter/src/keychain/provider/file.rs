//! The kubelet's `CredentialProviderConfig`: which providers there are, and for which images. Holds no state.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use soci_core::duration;

/// Versions of the file that the kubelet has had.
const FILE_VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
/// Versions of what is said to a provider; they differ in their names alone.
const EXEC_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("not a CredentialProviderConfig: {0}")]
    Parse(String),
    #[error("{kind} of {version} is no CredentialProviderConfig of kubelet.config.k8s.io")]
    Kind { kind: String, version: String },
    #[error("provider {name:?}: {reason}")]
    Provider { name: String, reason: String },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    providers: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    #[serde(default)]
    default_cache_duration: Option<String>,
    api_version: String,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<Vec<Variable>>,
    #[serde(default)]
    token_attributes: Option<IgnoredAny>,
}

/// A variable of a provider's environment.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: String,
}

/// One provider.
#[derive(Debug, Clone)]
pub(super) struct Provider {
    /// Name of its program.
    pub(super) name: String,
    /// Patterns of images that it is for.
    pub(super) images: Vec<String>,
    /// For how long an answer that does not say so is kept.
    pub(super) default_cache: Duration,
    /// The version that it is spoken to in.
    pub(super) version: String,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<Variable>,
    /// Whether it wants the token of a pod's service account, which only a kubelet has.
    pub(super) needs_token: bool,
}

/// Reads the file: YAML, and so JSON, too.
pub(super) fn parse(text: &str) -> Result<Vec<Provider>, FileError> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| FileError::Parse(error.to_string()))?;
    if file.kind != "CredentialProviderConfig" || !FILE_VERSIONS.contains(&file.api_version.as_str()) {
        return Err(FileError::Kind { kind: file.kind, version: file.api_version });
    }
    let mut names = HashSet::new();
    file.providers.into_iter().map(|entry| provider(entry, &mut names)).collect()
}

fn provider(entry: Entry, names: &mut HashSet<String>) -> Result<Provider, FileError> {
    let name = entry.name;
    let wrong = |reason: &str| FileError::Provider { name: name.clone(), reason: reason.to_owned() };
    if name.is_empty() || name.contains(['/', ' ']) || matches!(name.as_str(), "." | "..") {
        return Err(wrong("the name must be that of a program, without a path or spaces"));
    }
    if !names.insert(name.clone()) {
        return Err(wrong("the name is there twice"));
    }
    if entry.match_images.is_empty() {
        return Err(wrong("matchImages is empty"));
    }
    if !EXEC_VERSIONS.contains(&entry.api_version.as_str()) {
        return Err(wrong("apiVersion must be credentialprovider.kubelet.k8s.io/v1"));
    }
    let default_cache = match entry.default_cache_duration.as_deref() {
        None => Duration::ZERO,
        Some(text) => duration::parse(text).ok_or_else(|| wrong("defaultCacheDuration is no duration"))?,
    };
    Ok(Provider {
        images: entry.match_images,
        default_cache,
        version: entry.api_version,
        args: entry.args.unwrap_or_default(),
        env: entry.env.unwrap_or_default(),
        needs_token: entry.token_attributes.is_some(),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_managed_nodes_are_read() {
        let json = r#"{
          "apiVersion": "kubelet.config.k8s.io/v1", "kind": "CredentialProviderConfig",
          "providers": [{
            "name": "ecr-credential-provider", "matchImages": ["*.dkr.ecr.*.amazonaws.com"],
            "defaultCacheDuration": "12h0m0s", "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
            "args": null, "env": [{"name": "HOME", "value": "/root"}]
          }]
        }"#;
        let providers = parse(json).unwrap();
        assert_eq!(providers[0].name, "ecr-credential-provider");
        assert_eq!(providers[0].default_cache, Duration::from_hours(12));
        assert_eq!(providers[0].env[0].value, "/root");
        assert!(providers[0].args.is_empty() && !providers[0].needs_token);

        let yaml = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: CredentialProviderConfig\nproviders:\n\
            - name: acr\n  apiVersion: credentialprovider.kubelet.k8s.io/v1beta1\n  matchImages:\n  - \"*.azurecr.io\"\n  \
            args: [--config, /etc/acr.json]\n  defaultCacheDuration: \"0\"\n  tokenAttributes:\n    serviceAccountTokenAudience: x\n";
        let providers = parse(yaml).unwrap();
        assert_eq!(providers[0].args, ["--config", "/etc/acr.json"]);
        assert!(providers[0].needs_token);
        assert_eq!(providers[0].default_cache, Duration::ZERO);
    }

    #[test]
    fn what_the_kubelet_refuses_is_refused() {
        let provider = |entry: &str| {
            let text = format!(
                "{{apiVersion: kubelet.config.k8s.io/v1, kind: CredentialProviderConfig, providers: [{entry}]}}"
            );
            parse(&text).unwrap_err().to_string()
        };
        let version = "apiVersion: credentialprovider.kubelet.k8s.io/v1";
        for (entry, reason) in [
            (format!("{{name: ../x, matchImages: [a.io], {version}}}"), "without a path"),
            (format!("{{name: x, matchImages: [], {version}}}"), "matchImages is empty"),
            ("{name: x, matchImages: [a.io], apiVersion: v1}".to_owned(), "apiVersion must be"),
            (
                format!("{{name: x, matchImages: [a.io], defaultCacheDuration: soon, {version}}}"),
                "no duration",
            ),
            (
                format!(
                    "{{name: x, matchImages: [a.io], {version}}}, {{name: x, matchImages: [a.io], {version}}}"
                ),
                "twice",
            ),
        ] {
            assert!(provider(&entry).contains(reason), "{}", provider(&entry));
        }
        assert!(parse("kind: Config\napiVersion: v1").unwrap_err().to_string().contains("Config of v1"));
        assert!(parse("[").is_err() && parse("").is_err());
    }
}
