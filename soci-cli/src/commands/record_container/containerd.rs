//! Asks containerd on behalf of a recording, and puts its answers into the recorder's words. Decides nothing.

use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result};
use recorder::container::attach::Known;
use recorder::container::{Container, ContainerError, Facts, News, is_sandbox, names};
use soci_core::containerd::{Containerd, Containers, RuntimeError, Task, TaskEvent};
use soci_core::image::{Image, ImageError, ImageSource, Platform};
use soci_core::trace::LayerRef;

use crate::global::Global;

/// The namespaces that count.
#[derive(Debug, Clone)]
pub(super) struct Namespaces(Option<String>);

impl Namespaces {
    /// The one that the user names, else all.
    pub(super) fn of(global: &Global) -> Self {
        Self(global.named_namespace().map(str::to_owned))
    }

    fn have(&self, name: &str) -> bool {
        self.0.as_deref().is_none_or(|only| only == name)
    }
}

/// Tells what happens to containers from now on. Must be called on a tokio runtime.
pub(super) async fn follow(
    client: &Containers,
    socket: &Path,
    namespaces: Namespaces,
) -> Result<Receiver<News>> {
    let mut events = client.events().await.context("cannot follow the events of containerd")?;
    let (sender, news) = channel();
    let (client, socket) = (client.clone(), socket.to_owned());
    tokio::spawn(async move {
        loop {
            let told = match events.next().await {
                Ok(Some(TaskEvent::Created(task))) if namespaces.have(&task.namespace) => {
                    let container = describe(&client, &socket, &task).await;
                    News::Created { id: task.container, container: Box::new(container) }
                }
                Ok(Some(TaskEvent::Created(_))) => continue,
                Ok(Some(TaskEvent::Exited { namespace, container: id, code })) => {
                    News::Exited { namespace, id, code: code as u8 }
                }
                Ok(None) => News::Lost(failed("its events")("the stream has ended".into())),
                Err(error) => News::Lost(failed("its events")(error.into())),
            };
            let last = matches!(told, News::Lost(_));
            if sender.send(told).is_err() || last {
                return;
            }
        }
    });
    Ok(news)
}

/// The running containers.
pub(super) async fn running(client: &Containers, namespaces: &Namespaces) -> Result<Vec<Known>> {
    let mut known = Vec::new();
    for namespace in client.namespaces().await?.into_iter().filter(|name| namespaces.have(name)) {
        for task in client.tasks(&namespace).await? {
            // One that has gone meanwhile does not run.
            if let Ok(record) = client.container(&namespace, &task.container).await {
                let (names, sandbox) = (names(&record.labels), is_sandbox(&record.labels));
                let namespace = namespace.clone();
                known.push(Known { namespace, id: record.id, names, sandbox, pid: task.pid });
            }
        }
    }
    Ok(known)
}

/// What containerd knows of a container.
pub(super) async fn describe(
    client: &Containers,
    socket: &Path,
    task: &Task,
) -> Result<Container, ContainerError> {
    let Task { namespace, container: id, pid } = task;
    let refused = |what: &str| {
        let failed = failed(what);
        move |error: RuntimeError| failed(error.into())
    };
    let record = client.container(namespace, id).await.map_err(refused("its record"))?;
    let (manifest, layers, diff_ids) = if record.image.is_empty() {
        (None, Vec::new(), Vec::new())
    } else {
        let image = image(socket, namespace, &record.image).await;
        let image = image.map_err(|error| failed("its image")(error.into()))?;
        let layer =
            |layer: &soci_core::image::Descriptor| LayerRef { digest: layer.digest, size: layer.size };
        (Some(image.manifest.digest), image.layers().iter().map(layer).collect(), image.config.diff_ids)
    };
    let (mounts, parents) = client
        .snapshot(namespace, &record.snapshotter, &record.snapshot_key)
        .await
        .map_err(refused("its snapshot"))?;
    Container::new(Facts {
        namespace: namespace.clone(),
        id: record.id,
        labels: record.labels,
        image: record.image,
        pid: *pid,
        mounts: mounts.into_iter().map(|mount| (mount.r#type, mount.options)).collect(),
        parents,
        manifest,
        layers,
        diff_ids,
        spec: record.spec,
    })
}

/// The image of that name for this machine, as it is in containerd.
async fn image(socket: &Path, namespace: &str, name: &str) -> Result<Image, ImageError> {
    let containerd = Containerd::connect(socket, namespace)?;
    let source = ImageSource::containerd(name, &containerd).await?;
    source.ok_or_else(|| ImageError::NotFound(name.to_owned()))?.resolve(&Platform::host()).await
}

fn failed(what: &str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> ContainerError + use<> {
    let action = format!("ask containerd for {what}");
    move |source| ContainerError::Runtime { action: action.clone(), source }
}
