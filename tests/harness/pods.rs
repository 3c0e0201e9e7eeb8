//! CRI as a kubelet speaks it: images, a pod on the host's network, its container. The messages have the fields that this needs,
//! by their numbers in the API `runtime.v1`.

use std::path::{Path, PathBuf};

use http::uri::PathAndQuery;
use prost::Message;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Host network, as `NamespaceMode` numbers it.
const NODE: i32 = 2;
/// One process namespace for each container.
const CONTAINER: i32 = 1;

/// A client of CRI.
#[derive(Debug, Clone)]
pub struct Cri {
    channel: Channel,
    logs: PathBuf,
}

/// A pod.
#[derive(Debug, Clone)]
pub struct Pod {
    id: String,
    config: PodConfig,
}

/// What a program in a container has said, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// Exit code.
    pub code: i32,
}

impl Cri {
    /// Connects to the socket. Logs of containers go to `logs`.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn connect(socket: &Path, logs: &Path) -> Self {
        let socket = socket.to_owned();
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_: http::Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
            }))
            .await
            .expect("containerd answers");
        Self { channel, logs: logs.to_owned() }
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, tonic::Status>
    where
        Q: Message + Default + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.expect("containerd answers");
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(method);
        Ok(client.unary(tonic::Request::new(request), path, codec).await?.into_inner())
    }

    /// Pulls an image; gives its id.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn pull(&self, image: &str) -> Result<String, tonic::Status> {
        let request = ImageRequest { image: Some(spec(image)) };
        let answer: Id = self.call("/runtime.v1.ImageService/PullImage", request).await?;
        Ok(answer.id)
    }

    /// Removes an image.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn remove_image(&self, image: &str) -> Result<(), tonic::Status> {
        let request = ImageRequest { image: Some(spec(image)) };
        self.call::<_, Empty>("/runtime.v1.ImageService/RemoveImage", request).await.map(|_| ())
    }

    /// Runs an empty pod.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn run_pod(&self, name: &str) -> Result<Pod, tonic::Status> {
        let namespaces = Namespaces { network: NODE, pid: CONTAINER, ipc: 0 };
        let config = PodConfig {
            metadata: Some(PodMetadata {
                name: name.into(),
                uid: format!("{name}-uid"),
                namespace: "default".into(),
            }),
            log_directory: self.logs.display().to_string(),
            linux: Some(PodLinux {
                cgroup_parent: "/soci-tests".into(),
                security: Some(PodSecurity { namespaces: Some(namespaces) }),
            }),
        };
        let request = RunPod { config: Some(config.clone()) };
        let answer: Id = self.call("/runtime.v1.RuntimeService/RunPodSandbox", request).await?;
        Ok(Pod { id: answer.id, config })
    }

    /// Starts a container in a pod; gives its id.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn start(&self, pod: &Pod, image: &str, command: &[&str]) -> Result<String, tonic::Status> {
        let namespaces = Namespaces { network: NODE, pid: CONTAINER, ipc: 0 };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
            image: Some(spec(image)),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            log_path: "main.log".into(),
            linux: Some(ContainerLinux {
                security: Some(ContainerSecurity { namespaces: Some(namespaces) }),
            }),
        };
        let request = CreateContainer {
            pod: pod.id.clone(),
            config: Some(config),
            pod_config: Some(pod.config.clone()),
        };
        let Id { id } = self.call("/runtime.v1.RuntimeService/CreateContainer", request).await?;
        let request = Id { id: id.clone() };
        self.call::<_, Empty>("/runtime.v1.RuntimeService/StartContainer", request).await?;
        Ok(id)
    }

    /// Runs a program in a container to its end.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn exec(&self, container: &str, command: &[&str]) -> Result<Said, tonic::Status> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        let request = Exec { container: container.into(), command, timeout: 60 };
        let answer: Executed = self.call("/runtime.v1.RuntimeService/ExecSync", request).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Said { out: text(&answer.out), err: text(&answer.err), code: answer.code })
    }

    /// Ends and removes a pod with its containers.
    ///
    /// # Errors
    /// What containerd says.
    pub async fn remove_pod(&self, pod: &Pod) -> Result<(), tonic::Status> {
        for method in
            ["/runtime.v1.RuntimeService/StopPodSandbox", "/runtime.v1.RuntimeService/RemovePodSandbox"]
        {
            self.call::<_, Empty>(method, Id { id: pod.id.clone() }).await?;
        }
        Ok(())
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned() }
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// A message whose first field is an id.
#[derive(Clone, PartialEq, Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct Namespaces {
    #[prost(int32, tag = "1")]
    network: i32,
    #[prost(int32, tag = "2")]
    pid: i32,
    #[prost(int32, tag = "3")]
    ipc: i32,
}

#[derive(Clone, PartialEq, Message)]
struct PodMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodSecurity {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Namespaces>,
}

#[derive(Clone, PartialEq, Message)]
struct PodLinux {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security: Option<PodSecurity>,
}

#[derive(Clone, PartialEq, Message)]
struct PodConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodMetadata>,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(message, optional, tag = "8")]
    linux: Option<PodLinux>,
}

#[derive(Clone, PartialEq, Message)]
struct RunPod {
    #[prost(message, optional, tag = "1")]
    config: Option<PodConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerSecurity {
    #[prost(message, optional, tag = "3")]
    namespaces: Option<Namespaces>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerLinux {
    #[prost(message, optional, tag = "2")]
    security: Option<ContainerSecurity>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(string, tag = "11")]
    log_path: String,
    #[prost(message, optional, tag = "15")]
    linux: Option<ContainerLinux>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    pod: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    pod_config: Option<PodConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct Exec {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(string, repeated, tag = "2")]
    command: Vec<String>,
    #[prost(int64, tag = "3")]
    timeout: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Executed {
    #[prost(bytes = "vec", tag = "1")]
    out: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    err: Vec<u8>,
    #[prost(int32, tag = "3")]
    code: i32,
}
