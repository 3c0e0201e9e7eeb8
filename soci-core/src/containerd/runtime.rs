//! Containers of containerd, for who looks on: what each is, which run, and what happens to them.
//!
//! [`Containers`] owns one HTTP/2 connection and asks; it changes nothing. Whatever comes back is the server's word, for the
//! caller to judge. Images are the business of [`super::Containerd`].

use std::{collections::BTreeMap, path::Path, time::Duration};

use prost::Message;
use tonic::{Request, Status, Streaming, transport::Channel};

use super::{
    ConnectError, NAMESPACE_HEADER,
    client::{connect, reason, version},
    generated::containerd as api,
    types::Mount,
};

/// How often a subscription that has not been answered is knocked at.
const HELLO_EVERY: Duration = Duration::from_millis(20);
/// Deepest chain of snapshots that is followed; overlayfs takes 500.
const MAX_PARENTS: usize = 512;

/// containerd refused, or is gone.
#[derive(Debug, thiserror::Error)]
#[error("containerd: {}", reason(.0))]
pub struct RuntimeError(Status);

impl From<Status> for RuntimeError {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

/// A container as containerd knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerRecord {
    /// Its id.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Name of its image; may be empty.
    pub image: String,
    /// OCI runtime specification, JSON.
    pub spec: Vec<u8>,
    /// Name of its snapshotter.
    pub snapshotter: String,
    /// Key of its snapshot.
    pub snapshot_key: String,
}

/// The first process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The container's namespace.
    pub namespace: String,
    /// The container's id.
    pub container: String,
    /// Process id on the host.
    pub pid: u32,
}

/// Something that happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEvent {
    /// It has its first process, which waits to be started.
    Created(Task),
    /// Its first process has ended.
    Exited {
        /// The container's namespace.
        namespace: String,
        /// The container's id.
        container: String,
        /// Exit code as a shell reports it.
        code: u32,
    },
}

/// Asks about containers.
#[derive(Debug, Clone)]
pub struct Containers {
    channel: Channel,
}

impl Containers {
    /// Connects to containerd's Unix socket.
    pub async fn connect(socket: &Path) -> Result<Self, ConnectError> {
        Ok(Self { channel: connect(socket).await? })
    }

    /// containerd's version, as it says it (`2.1.9`, `1.6.20~ds1`).
    pub async fn version(&self) -> Result<String, RuntimeError> {
        Ok(version(self.channel.clone()).await?)
    }

    /// What happens from now on, in all namespaces.
    ///
    /// Containerd says that it listens to a subscription with the first event only. So one is sent, which means nothing to
    /// anybody, until it comes back: what happens after the return of this is told.
    pub async fn events(&self) -> Result<TaskEvents, RuntimeError> {
        use api::services::events::v1::{PublishRequest, SubscribeRequest, events_client::EventsClient};
        let mut client = EventsClient::new(self.channel.clone());
        let hello = format!("/soci/subscribed-{}", std::process::id());
        let filters =
            ["/tasks/create", "/tasks/exit", &hello].map(|topic| format!("topic==\"{topic}\"")).to_vec();
        let mut publisher = client.clone();
        let knock = async {
            loop {
                let event = Some(prost_types::Any { type_url: "soci/subscribed".into(), value: Vec::new() });
                let request = within("default", PublishRequest { topic: hello.clone(), event })?;
                publisher.publish(request).await?;
                tokio::time::sleep(HELLO_EVERY).await;
            }
        };
        let stream = tokio::select! {
            stream = client.subscribe(SubscribeRequest { filters }) => stream?,
            failed = knock => return failed,
        };
        Ok(TaskEvents { stream: stream.into_inner() })
    }

    /// The namespaces that there are.
    pub async fn namespaces(&self) -> Result<Vec<String>, RuntimeError> {
        use api::services::namespaces::v1::{ListNamespacesRequest, namespaces_client::NamespacesClient};
        let mut client = NamespacesClient::new(self.channel.clone());
        let answer = client.list(ListNamespacesRequest { filter: String::new() }).await?;
        Ok(answer.into_inner().namespaces.into_iter().map(|namespace| namespace.name).collect())
    }

    /// The containers of a namespace that have a process.
    pub async fn tasks(&self, namespace: &str) -> Result<Vec<Task>, RuntimeError> {
        use api::services::tasks::v1::{ListTasksRequest, tasks_client::TasksClient};
        let mut client = TasksClient::new(self.channel.clone());
        let request = within(namespace, ListTasksRequest { filter: String::new() })?;
        let tasks = client.list(request).await?.into_inner().tasks;
        let task = |process: api::v1::types::Process| {
            // Containerd 1.x fills the id only, later ones both.
            let container = if process.container_id.is_empty() { process.id } else { process.container_id };
            Task { namespace: namespace.to_owned(), container, pid: process.pid }
        };
        Ok(tasks.into_iter().filter(|process| process.pid != 0).map(task).collect())
    }

    /// A container's record.
    pub async fn container(&self, namespace: &str, id: &str) -> Result<ContainerRecord, RuntimeError> {
        use api::services::containers::v1::{GetContainerRequest, containers_client::ContainersClient};
        let mut client = ContainersClient::new(self.channel.clone());
        let answer = client.get(within(namespace, GetContainerRequest { id: id.to_owned() })?).await?;
        let record = answer.into_inner().container;
        let record = record.ok_or_else(|| Status::internal("no container in the answer"))?;
        Ok(ContainerRecord {
            id: record.id,
            labels: record.labels.into_iter().collect(),
            image: record.image,
            spec: record.spec.map(|any| any.value).unwrap_or_default(),
            snapshotter: record.snapshotter,
            snapshot_key: record.snapshot_key,
        })
    }

    /// The mounts of a snapshot, and the names of the snapshots below it, the topmost first.
    pub async fn snapshot(
        &self,
        namespace: &str,
        snapshotter: &str,
        key: &str,
    ) -> Result<(Vec<Mount>, Vec<String>), RuntimeError> {
        use super::snapshots::{MountsRequest, StatSnapshotRequest, snapshots_client::SnapshotsClient};
        let mut client = SnapshotsClient::new(self.channel.clone());
        let (snapshotter, mut key) = (snapshotter.to_owned(), key.to_owned());
        let request = MountsRequest { snapshotter: snapshotter.clone(), key: key.clone() };
        let mounts = client.mounts(within(namespace, request)?).await?.into_inner().mounts;
        let mut parents = Vec::new();
        while parents.len() < MAX_PARENTS {
            let request = StatSnapshotRequest { snapshotter: snapshotter.clone(), key: key.clone() };
            let info = client.stat(within(namespace, request)?).await?.into_inner().info;
            key = info.map(|info| info.parent).unwrap_or_default();
            if key.is_empty() {
                break;
            }
            parents.push(key.clone());
        }
        Ok((mounts, parents))
    }
}

/// A stream of what happens.
#[derive(Debug)]
pub struct TaskEvents {
    stream: Streaming<api::types::Envelope>,
}

impl TaskEvents {
    /// The next that happens to a container's first process; `None` when containerd has ended the stream.
    pub async fn next(&mut self) -> Result<Option<TaskEvent>, RuntimeError> {
        loop {
            let Some(envelope) = self.stream.message().await? else { return Ok(None) };
            if let Some(event) = task_event(envelope) {
                return Ok(Some(event));
            }
        }
    }
}

fn task_event(envelope: api::types::Envelope) -> Option<TaskEvent> {
    let (namespace, bytes) = (envelope.namespace, envelope.event?.value);
    match envelope.topic.as_str() {
        "/tasks/create" => {
            let event = api::events::TaskCreate::decode(&*bytes).ok()?;
            Some(TaskEvent::Created(Task { namespace, container: event.container_id, pid: event.pid }))
        }
        "/tasks/exit" => {
            let event = api::events::TaskExit::decode(&*bytes).ok()?;
            // Processes that were executed in it later have ids of their own.
            let first = event.id == event.container_id || event.id.is_empty();
            let container = event.container_id;
            first.then_some(TaskEvent::Exited { namespace, container, code: event.exit_status })
        }
        _ => None,
    }
}

fn within<T>(namespace: &str, message: T) -> Result<Request<T>, RuntimeError> {
    let mut request = Request::new(message);
    let value = namespace.parse().map_err(|_| Status::invalid_argument("bad namespace"))?;
    request.metadata_mut().insert(NAMESPACE_HEADER, value);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str, message: &impl Message) -> api::types::Envelope {
        let any = prost_types::Any { type_url: String::new(), value: message.encode_to_vec() };
        api::types::Envelope { namespace: "n".into(), topic: topic.into(), event: Some(any), timestamp: None }
    }

    #[test]
    fn only_first_processes_make_events() {
        let create = api::events::TaskCreate { container_id: "c".into(), pid: 7, ..Default::default() };
        let task = Task { namespace: "n".into(), container: "c".into(), pid: 7 };
        assert_eq!(task_event(envelope("/tasks/create", &create)), Some(TaskEvent::Created(task)));
        let exit = |id: &str| api::events::TaskExit {
            container_id: "c".into(),
            id: id.into(),
            pid: 7,
            exit_status: 3,
            exited_at: None,
        };
        let exited = TaskEvent::Exited { namespace: "n".into(), container: "c".into(), code: 3 };
        assert_eq!(task_event(envelope("/tasks/exit", &exit("c"))), Some(exited));
        assert_eq!(task_event(envelope("/tasks/exit", &exit("exec-1"))), None);
        assert_eq!(task_event(envelope("/tasks/oom", &exit("c"))), None);
        let mut broken = envelope("/tasks/exit", &exit("c"));
        broken.event.as_mut().unwrap().value.truncate(2);
        assert_eq!(task_event(broken), None);
    }
}
