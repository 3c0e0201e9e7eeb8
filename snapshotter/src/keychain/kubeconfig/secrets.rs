//! The list of secrets, page by page. Holds no state.
//!
//! The API server is the administrator's own; what it sends has limits all the same.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use serde::Deserialize;
use serde_json::json;
use soci_core::error::chain;
use soci_core::registry::DockerAuths;
use tokio::process::Command;
use tokio::time::timeout;

use super::file::{self, Access, Exec, FileError};
use crate::keychain::run::{self, RunError};

/// Time for a whole list.
const LIMIT: Duration = Duration::from_secs(20);
/// Secrets on a page; each has up to 1 MiB.
const PAGE: &str = "100";
/// Bytes of all pages.
const MAX_BYTES: usize = 64 << 20;
/// Pages.
const MAX_PAGES: usize = 100;
/// What is told of an answer that is no list.
const MAX_TOLD: usize = 300;

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("kubeconfig")]
    File(#[from] FileError),
    #[error("the program of the kubeconfig's user")]
    Exec(#[from] RunError),
    #[error("the program of the kubeconfig's user gave no token")]
    NoToken,
    #[error("{0:?} is no address of an API server")]
    Address(String),
    #[error("cannot talk to the API server")]
    Http(#[source] reqwest::Error),
    #[error("the API server refused ({status}): {words}")]
    Refused { status: u16, words: String },
    #[error("the API server's list is not a list of secrets, or too long")]
    NotAList,
    #[error("no answer within {LIMIT:?}")]
    TimedOut,
    #[error("the reader of the kubeconfig ended")]
    CutOff,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    items: Vec<Secret>,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default, rename = ".dockerconfigjson")]
    config: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
}

/// All secrets with a docker configuration, in the order of the API server: by namespace and name. Those that cannot be read
/// are left out.
pub(super) async fn list(kubeconfig: &Path) -> Result<Vec<DockerAuths>, ListError> {
    timeout(LIMIT, list_all(kubeconfig)).await.unwrap_or(Err(ListError::TimedOut))
}

async fn list_all(kubeconfig: &Path) -> Result<Vec<DockerAuths>, ListError> {
    let path = kubeconfig.to_owned();
    let access = tokio::task::spawn_blocking(move || {
        let text = std::fs::read_to_string(&path);
        let text = text.map_err(|source| ListError::Read { path: path.clone(), source })?;
        Ok::<_, ListError>(file::read(&text, path.parent().unwrap_or(Path::new("/")))?)
    });
    let access = access.await.map_err(|_| ListError::CutOff)??;
    let token = match (&access.token, &access.exec) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(exec)) => Some(token_of(exec, kubeconfig).await?),
        (None, None) => None,
    };
    let client = client(&access).map_err(ListError::Http)?;
    let (mut all, mut bytes, mut next) = (Vec::new(), 0, String::new());
    for _ in 0..MAX_PAGES {
        let mut request = client.get(address(&access.server, &next)?);
        if let Some(token) = &token {
            request = request.bearer_auth(token);
        }
        let mut response = request.send().await.map_err(|error| ListError::Http(error.without_url()))?;
        let mut body = Vec::new();
        while let Some(piece) =
            response.chunk().await.map_err(|error| ListError::Http(error.without_url()))?
        {
            body.extend_from_slice(&piece);
            if bytes + body.len() > MAX_BYTES {
                return Err(ListError::NotAList);
            }
        }
        bytes += body.len();
        if !response.status().is_success() {
            let words = serde_json::from_slice(&body).map_or(String::new(), |status: Status| status.message);
            let words = words.chars().take(MAX_TOLD).map(|c| if c.is_control() { ' ' } else { c }).collect();
            return Err(ListError::Refused { status: response.status().as_u16(), words });
        }
        let list: List = serde_json::from_slice(&body).map_err(|_| ListError::NotAList)?;
        all.extend(list.items.into_iter().filter_map(auths));
        next = list.metadata.next.unwrap_or_default();
        if next.is_empty() {
            return Ok(all);
        }
    }
    Err(ListError::NotAList)
}

fn auths(secret: Secret) -> Option<DockerAuths> {
    let config = STANDARD.decode(secret.data?.config).ok()?;
    let auths = DockerAuths::parse(&config);
    if let Err(error) = &auths {
        tracing::debug!(error = chain(error), "a secret is no docker configuration");
    }
    auths.ok()
}

fn address(server: &str, next: &str) -> Result<Url, ListError> {
    let wrong = || ListError::Address(server.to_owned());
    let mut url = Url::parse(&format!("{server}/api/v1/secrets")).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong());
    }
    let mut query = url.query_pairs_mut();
    query.append_pair("fieldSelector", "type=kubernetes.io/dockerconfigjson").append_pair("limit", PAGE);
    if !next.is_empty() {
        query.append_pair("continue", next);
    }
    drop(query);
    Ok(url)
}

fn client(access: &Access) -> reqwest::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("soci-snapshotter/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(access.skip_verify);
    if let Some(authority) = &access.authority {
        builder = builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(authority)?);
    }
    if let Some(identity) = &access.identity {
        builder = builder.identity(reqwest::Identity::from_pem(identity)?);
    }
    builder.build()
}

/// The token that a program gives (`client.authentication.k8s.io`), as on nodes whose identity is their cloud's.
async fn token_of(exec: &Exec, kubeconfig: &Path) -> Result<String, ListError> {
    #[derive(Deserialize)]
    struct Credential {
        status: Option<Given>,
    }
    #[derive(Deserialize)]
    struct Given {
        #[serde(default)]
        token: String,
    }
    let program = Path::new(&exec.command);
    let beside = kubeconfig.parent().filter(|_| program.components().count() > 1 && program.is_relative());
    let mut command = Command::new(beside.map_or(program.to_owned(), |directory| directory.join(program)));
    command.args(exec.args.iter().flatten());
    command.envs(exec.env.iter().flatten().map(|variable| (&variable.name, &variable.value)));
    let info =
        json!({ "apiVersion": exec.api_version, "kind": "ExecCredential", "spec": { "interactive": false } });
    command.env("KUBERNETES_EXEC_INFO", info.to_string());
    let answer = run::ask(command, b"", LIMIT).await?;
    let given = serde_json::from_slice(&answer).ok().and_then(|answer: Credential| answer.status);
    given.map(|given| given.token).filter(|token| !token.is_empty()).ok_or(ListError::NoToken)
}
