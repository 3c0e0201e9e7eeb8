//! `containerd.services.snapshots.v1.Snapshots`, method by method.
//!
//! Holds nothing but the room it asks. The room's plain functions may touch the disk, so they run on blocking threads.

use std::collections::HashMap;
use std::sync::Arc;

use soci_core::containerd::snapshots::snapshots_server::Snapshots;
use soci_core::containerd::snapshots::{
    CleanupRequest, CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, ListSnapshotsResponse,
    MountsRequest, MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest,
    StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse, UsageRequest,
    UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
};
use soci_core::containerd::{NAMESPACE_HEADER, types};
use tokio_stream::Iter;
use tonic::{Request, Response, Status};

use crate::blocking::try_blocking;
use crate::snapshot::{self, Filter, Mount, PrepareRequest, Snapshotter};

/// Snapshots in one message of a List: far below gRPC's 4 MiB even with labels of full size.
const LIST_BATCH: usize = 100;

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    room: Arc<Snapshotter>,
}

impl Service {
    /// Answers from `room`.
    pub fn new(room: Arc<Snapshotter>) -> Self {
        Self { room }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Snapshotter) -> snapshot::Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let room = Arc::clone(&self.room);
        let done = try_blocking(move || work(&room)).await;
        Ok(done.map_err(|_| Status::internal("the request's thread ended"))??)
    }
}

#[tonic::async_trait]
impl Snapshots for Service {
    type ListStream = Iter<std::vec::IntoIter<Result<ListSnapshotsResponse, Status>>>;

    async fn prepare(&self, request: Request<PrepareSnapshotRequest>) -> Answer<PrepareSnapshotResponse> {
        let namespace = request.metadata().get(NAMESPACE_HEADER).and_then(|value| value.to_str().ok());
        let namespace = namespace.map(str::to_owned);
        let PrepareSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let request = PrepareRequest { key, parent: parent_of(parent), labels: sorted(labels), namespace };
        let mounts = self.room.prepare(request).await?;
        Ok(Response::new(PrepareSnapshotResponse { mounts: wire_mounts(mounts) }))
    }

    async fn view(&self, request: Request<ViewSnapshotRequest>) -> Answer<ViewSnapshotResponse> {
        let ViewSnapshotRequest { key, parent, labels, .. } = request.into_inner();
        let mounts = self.room.view(key, parent_of(parent), sorted(labels)).await?;
        Ok(Response::new(ViewSnapshotResponse { mounts: wire_mounts(mounts) }))
    }

    async fn mounts(&self, request: Request<MountsRequest>) -> Answer<MountsResponse> {
        let mounts = self.room.mounts(&request.into_inner().key).await?;
        Ok(Response::new(MountsResponse { mounts: wire_mounts(mounts) }))
    }

    async fn commit(&self, request: Request<CommitSnapshotRequest>) -> Answer<()> {
        let CommitSnapshotRequest { name, key, labels, parent, .. } = request.into_inner();
        let parent = parent_of(parent);
        self.blocking(move |room| room.commit(&key, &name, parent.as_deref(), sorted(labels)))
            .await
            .map(Response::new)
    }

    async fn remove(&self, request: Request<RemoveSnapshotRequest>) -> Answer<()> {
        let key = request.into_inner().key;
        self.blocking(move |room| room.remove(&key)).await.map(Response::new)
    }

    async fn stat(&self, request: Request<StatSnapshotRequest>) -> Answer<StatSnapshotResponse> {
        let key = request.into_inner().key;
        let info = self.blocking(move |room| room.stat(&key)).await?;
        Ok(Response::new(StatSnapshotResponse { info: Some(wire_info(info)) }))
    }

    async fn update(&self, request: Request<UpdateSnapshotRequest>) -> Answer<UpdateSnapshotResponse> {
        let UpdateSnapshotRequest { info, update_mask, .. } = request.into_inner();
        let info = info.ok_or_else(|| Status::invalid_argument("no info to update"))?;
        let paths = update_mask.map(|mask| mask.paths).unwrap_or_default();
        let update = move |room: &Snapshotter| room.update(&info.name, &sorted(info.labels), &paths);
        let info = self.blocking(update).await?;
        Ok(Response::new(UpdateSnapshotResponse { info: Some(wire_info(info)) }))
    }

    async fn list(&self, request: Request<ListSnapshotsRequest>) -> Answer<Self::ListStream> {
        let filters = request.into_inner().filters;
        let found = self
            .blocking(move |room| {
                let filters: Result<Vec<_>, _> = filters.iter().map(|text| Filter::parse(text)).collect();
                room.list(&filters?)
            })
            .await?;
        let batches: Vec<_> = found
            .chunks(LIST_BATCH)
            .map(|batch| Ok(ListSnapshotsResponse { info: batch.iter().cloned().map(wire_info).collect() }))
            .collect();
        Ok(Response::new(tokio_stream::iter(batches)))
    }

    async fn usage(&self, request: Request<UsageRequest>) -> Answer<UsageResponse> {
        let key = request.into_inner().key;
        let usage = self.blocking(move |room| room.usage(&key)).await?;
        let wire = |value| i64::try_from(value).unwrap_or(i64::MAX);
        Ok(Response::new(UsageResponse { size: wire(usage.size), inodes: wire(usage.inodes) }))
    }

    async fn cleanup(&self, _: Request<CleanupRequest>) -> Answer<()> {
        self.blocking(Snapshotter::cleanup).await.map(Response::new)
    }
}

/// The empty string is how the protocol says that there is no parent.
fn parent_of(parent: String) -> Option<String> {
    Some(parent).filter(|parent| !parent.is_empty())
}

fn sorted(labels: HashMap<String, String>) -> snapshot::Labels {
    labels.into_iter().collect()
}

fn wire_mounts(mounts: Vec<Mount>) -> Vec<types::Mount> {
    let wire = |mount: Mount| types::Mount {
        r#type: mount.kind.to_owned(),
        source: mount.source,
        target: String::new(),
        options: mount.options,
    };
    mounts.into_iter().map(wire).collect()
}

fn wire_info(info: snapshot::Info) -> Info {
    let kind = match info.kind {
        snapshot::Kind::View => Kind::View,
        snapshot::Kind::Active => Kind::Active,
        snapshot::Kind::Committed => Kind::Committed,
    };
    Info {
        name: info.name,
        parent: info.parent.unwrap_or_default(),
        kind: kind.into(),
        created_at: Some(info.created.into()),
        updated_at: Some(info.updated.into()),
        labels: info.labels.into_iter().collect(),
    }
}
