//! A kubeconfig: where the API server is, whom to trust, and what to show. Holds no state.
//!
//! What it names in other files is read when it is needed: tokens and certificates on a node change.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// The kubeconfig cannot be used. Says no secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("not a kubeconfig: {0}")]
    Parse(String),
    #[error("it has no {0}")]
    Missing(String),
    #[error("{0} is not base64")]
    Base64(&'static str),
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

/// An API server.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    #[serde(default)]
    certificate_authority: String,
    #[serde(default)]
    certificate_authority_data: String,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    exec: Option<Exec>,
}

/// A program that gives a token.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
pub(super) struct Exec {
    pub(super) api_version: String,
    pub(super) command: String,
    #[serde(default)]
    pub(super) args: Option<Vec<String>>,
    #[serde(default)]
    pub(super) env: Option<Vec<Variable>>,
}

/// A variable of its environment.
#[derive(Deserialize, Clone)]
pub(super) struct Variable {
    pub(super) name: String,
    pub(super) value: String,
}

/// What is needed to ask the API server.
pub(super) struct Access {
    /// `https://HOST[:PORT][/PATH]`, without a slash at its end.
    pub(super) server: String,
    /// Certificates to trust, in place of the system's.
    pub(super) authority: Option<Vec<u8>>,
    pub(super) skip_verify: bool,
    /// Certificate and key.
    pub(super) identity: Option<Vec<u8>>,
    pub(super) token: Option<String>,
    pub(super) exec: Option<Exec>,
}

/// Reads the text of the kubeconfig in `directory`, and the files that it names. Blocking.
pub(super) fn read(text: &str, directory: &Path) -> Result<Access, FileError> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| {
        // The parser's words may quote what stands there.
        let place = error.location().map(|at| format!("line {}", at.line()));
        FileError::Parse(place.unwrap_or_else(|| "not YAML of its form".to_owned()))
    })?;
    let missing = |what: &str, name: &str| FileError::Missing(format!("{what} {name:?}"));
    let context = file.contexts.into_iter().find(|one| one.name == file.current_context);
    let context = context.ok_or_else(|| missing("context", &file.current_context))?.context;
    let cluster = file.clusters.into_iter().find(|one| one.name == context.cluster);
    let cluster = cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
    let user = match file.users.into_iter().find(|one| one.name == context.user) {
        Some(named) => named.user,
        None if context.user.is_empty() => User::default(),
        None => return Err(missing("user", &context.user)),
    };
    let content = |what, data: &str, path: &str| content(what, data, path, directory);
    let (ca, path) = (&cluster.certificate_authority_data, &cluster.certificate_authority);
    let authority = content("certificate-authority-data", ca, path)?;
    let (data, path) = (&user.client_certificate_data, &user.client_certificate);
    let certificate = content("client-certificate-data", data, path)?;
    let key = content("client-key-data", &user.client_key_data, &user.client_key)?;
    let identity = certificate.zip(key).map(|(mut certificate, key)| {
        certificate.push(b'\n');
        certificate.extend(key);
        certificate
    });
    let token = match content("token", "", &user.token_file)? {
        Some(bytes) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        None => user.token,
    };
    Ok(Access {
        server: cluster.server.trim_end_matches('/').to_owned(),
        authority,
        skip_verify: cluster.insecure_skip_tls_verify,
        identity,
        token: Some(token).filter(|token| !token.is_empty()),
        exec: user.exec,
    })
}

/// What stands in the kubeconfig in base64, else in a file beside it.
fn content(
    what: &'static str,
    data: &str,
    path: &str,
    directory: &Path,
) -> Result<Option<Vec<u8>>, FileError> {
    if !data.is_empty() {
        return STANDARD.decode(data.trim()).map(Some).map_err(|_| FileError::Base64(what));
    }
    if path.is_empty() {
        return Ok(None);
    }
    let path = directory.join(path);
    std::fs::read(&path).map(Some).map_err(|source| FileError::Read { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_context_counts_and_files_lie_beside_the_kubeconfig() {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [("ca.pem", "ca"), ("token", "t0ken\n"), ("cert", "cert"), ("key", "key")] {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: b\ncontexts:\n\
            - {name: a, context: {cluster: none, user: none}}\n- {name: b, context: {cluster: c, user: u}}\n\
            clusters:\n- {name: c, cluster: {server: \"https://api.test:6443/\", certificate-authority: ca.pem}}\n\
            users:\n- {name: u, user: {tokenFile: token, client-certificate: cert, client-key: key}}\n";
        let access = read(text, dir.path()).unwrap();
        assert_eq!(access.server, "https://api.test:6443");
        assert_eq!(access.authority.as_deref(), Some(&b"ca"[..]));
        assert_eq!(access.identity.as_deref(), Some(&b"cert\nkey"[..]));
        assert_eq!(access.token.as_deref(), Some("t0ken"));
        assert!(!access.skip_verify && access.exec.is_none());

        let error = |text: &str| read(text, dir.path()).err().unwrap().to_string();
        assert!(error(&text.replace("cluster: c,", "cluster: x,")).contains("no cluster \"x\""));
        assert!(error(&text.replace("ca.pem", "absent")).contains("absent"));
        let data = text.replace("certificate-authority: ca.pem", "certificate-authority-data: s3cret!");
        let said = error(&data);
        assert!(said.contains("certificate-authority-data") && !said.contains("s3cret"), "{said}");
        assert!(!error("users: s3cret").contains("s3cret"));
    }
}
