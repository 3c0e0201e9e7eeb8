//! The process put together: every room made once, from the configuration, and taken down in the right order.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use soci_core::containerd::snapshots::snapshots_server::SnapshotsServer;
use soci_core::registry::{HostPolicy, Keychain, Registry, RegistryOptions, RetryPolicy, Timeouts};
use soci_core::store::{LayoutStore, StoreError};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tonic::transport::Server;
use tracing::{info, warn};

use crate::blocking::{blocking, try_blocking};
use crate::config::{Config, ConfigError};
use crate::engine::{BackgroundOptions, EngineOptions};
use crate::grpc::{ImageService, Service};
use crate::hidden::helper::Program;
use crate::image::Discovery;
use crate::layer::LayerError;
use crate::lock::{LockError, RootLock, Tried};
use crate::mounts::{FuseOptions, Keep, MountError, MountsOptions};
use crate::node::{Node, NodeOptions};
use crate::pack::PackOptions;
use crate::snapshot::{self, Policy, SnapshotStats, Snapshotter, needs_userxattr};
use crate::span::SpanOptions;
use crate::status::{self, Status};
use crate::storage::Limits;
use crate::telemetry::defs::{Now, Sources};
use crate::telemetry::stats::Stats;
use crate::telemetry::{Listener, MetricsError, serve};
use crate::unpack::{UnpackOptions, Unpacker};
use crate::{housekeeping, private};

/// How long requests that are in work may take to end when the process stops.
const LAST_REQUESTS: Duration = Duration::from_secs(2);
/// How long an earlier process may take to end before this one gives up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait before a connection that could not be taken is tried again.
const NEXT_ACCEPT: Duration = Duration::from_millis(100);
/// A body that stands still for so long is asked for anew: readers wait for it.
const STALL: Duration = Duration::from_secs(3);
/// A part of a layer of which nothing comes for so long is asked for a second time, while the first request goes on.
const HEDGE: Duration = Duration::from_secs(1);
/// One ranged request of a whole layer, unless the configuration says otherwise: large enough that requests cost
/// nothing beside their bytes, small enough that a few of them are always in flight.
const CHUNK: u64 = 4 << 20;

/// The daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The root directory.
    #[error("cannot use the root directory {}", path.display())]
    Root {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The content store.
    #[error("cannot open the content store")]
    Store(#[source] StoreError),
    /// The data plane.
    #[error("cannot set up lazy layers")]
    Layers(#[source] LayerError),
    /// The snapshots.
    #[error("cannot open the snapshots")]
    Snapshots(#[source] snapshot::Error),
    /// The metrics endpoint.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The root directory is in use.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Layers cannot be mounted.
    #[error("cannot serve layers")]
    Mounts(#[source] MountError),
    /// The gRPC server.
    #[error("gRPC server")]
    Grpc(#[source] tonic::transport::Error),
}

/// The rooms of a running daemon.
#[derive(Debug)]
pub struct Daemon {
    snapshotter: Arc<Snapshotter>,
    node: Arc<Node>,
    status: Arc<Status>,
    _lock: RootLock,
}

impl Daemon {
    /// Makes every room below `root`, takes over what an earlier process serves, and brings lazy layers of earlier pulls
    /// back. `program` is this program, for the processes that help it. Warnings about the configuration go to the log.
    ///
    /// # Errors
    /// When another process serves this root, or a room cannot be made.
    pub async fn start(
        config: &Config,
        root: &Path,
        keychain: Arc<dyn Keychain>,
        program: Program,
    ) -> Result<Self, DaemonError> {
        let no_root = |source| DaemonError::Root { path: root.to_path_buf(), source };
        private::root(root, "snapshotter").map_err(no_root)?;
        // Mounts are made from these paths by others, with other working directories.
        let root = std::fs::canonicalize(root).map_err(no_root)?;
        let tried = blocking({
            let root = root.clone();
            move || RootLock::take(&root, PATIENCE)
        });
        let tried = tried.await?;
        for part in ["cache", "content", "snapshotter", "unpack"] {
            private::directory(&root.join(part)).map_err(no_root)?;
        }

        let registry = Registry::new(registry_options(config, keychain));
        let ahead = tokio::task::spawn_blocking({
            let registry = registry.clone();
            move || registry.make_ahead()
        });
        let stats = Arc::new(Stats::default());
        let counters = Arc::new(SnapshotStats::default());
        let sources = Sources {
            traffic: registry.traffic(),
            stats: Arc::clone(&stats),
            counters: Arc::clone(&counters),
            now: Now::default(),
        };
        let cri = &config.cri_keychain;
        let containerd = config.status.containerd().or_else(|| cri.enable_keychain.then(|| cri.socket()));
        let status = Status::new(sources, containerd);
        if let Some(socket) = config.status.socket(&root) {
            match status::bind_private(&socket) {
                Ok(listener) => drop(tokio::spawn(serve(Listener::Unix(listener), status::private(&status)))),
                // Nothing needs it but people.
                Err(error) => {
                    warn!(path = %socket.display(), %error, "the status socket cannot be served; set [status] socket");
                }
            }
        }
        if !config.metrics_address.is_empty() && !config.no_prometheus {
            let listener = Listener::bind(&config.metrics_network, &config.metrics_address).await?;
            let address =
                listener.tcp_address().map_or_else(|| config.metrics_address.clone(), |tcp| tcp.to_string());
            info!(address, "metrics are served");
            tokio::spawn(serve(listener, status::open_to_all(&status)));
        }
        let content = LayoutStore::open(&root.join("content")).map_err(DaemonError::Store)?;
        let node = Node::new(node_options(config, &root, registry.clone(), content, stats, program)?);
        let node = node.map_err(DaemonError::Layers)?;
        let mounts = Arc::clone(node.mounts());
        blocking(move || mounts.begin()).await.map_err(DaemonError::Mounts)?;
        let lock = match tried {
            Tried::Ours(lock) => lock,
            // It waits for answers, and now has them.
            Tried::OfDying => {
                let root = root.clone();
                blocking(move || RootLock::take_from_dying(&root, PATIENCE)).await?
            }
        };
        let unpack = unpack_options(config);
        let unpacker = Unpacker::new(root.join("unpack"), unpack, needs_userxattr(), Handle::current());
        let unpacker = unpacker.map_err(no_root)?;
        let snapshots = root.join("snapshotter");
        let opened = Snapshotter::open(snapshots, policy(config), Arc::clone(&node), unpacker, counters);
        let snapshotter = Arc::new(opened.map_err(DaemonError::Snapshots)?);
        status.rooms(&node, &snapshotter);
        snapshotter.restore().await.map_err(DaemonError::Snapshots)?;
        // A panic in there was logged by its thread.
        let _ = ahead.await;
        if let Some(keep) = config.storage.keep_unused() {
            tokio::spawn(housekeeping::sweep(keep, Arc::downgrade(&snapshotter), Arc::downgrade(&node)));
        }
        let limits = Limits { max_bytes: config.cache.limit(), min_free: config.storage.min_free() };
        tokio::spawn(housekeeping::keep_room(limits, Arc::downgrade(&snapshotter), Arc::downgrade(&node)));
        tokio::spawn(housekeeping::look_after(Arc::downgrade(node.mounts())));
        Ok(Self { snapshotter, node, status, _lock: lock })
    }

    /// Answers on `listener` until `stop`, also for CRI's image service if there is one; gives requests in work a moment to end.
    pub async fn serve(
        &self,
        listener: UnixListener,
        images: Option<ImageService>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), DaemonError> {
        self.status.serves();
        let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
        let service = SnapshotsServer::new(Service::new(Arc::clone(&self.snapshotter)));
        let server = Server::builder().add_service(service).add_optional_service(images);
        let server = server.serve_with_incoming_shutdown(incoming(listener), async {
            // Told, or nobody is left to tell.
            let _ = stopped.await;
        });
        let mut server = std::pin::pin!(server);
        tokio::select! {
            ended = &mut server => return ended.map_err(DaemonError::Grpc),
            () = stop => drop(stopping),
        }
        if let Ok(ended) = tokio::time::timeout(LAST_REQUESTS, server).await {
            return ended.map_err(DaemonError::Grpc);
        }
        warn!("requests in work are cut off");
        Ok(())
    }

    /// Unmounts every lazy layer, unless mounts outlive the process, and brings the caches to disk, so that the next start
    /// trusts all of them.
    pub async fn close(self) {
        let closed = try_blocking(move || {
            self.snapshotter.close();
            self.node.mounts().close();
            self.node.close();
        });
        if closed.await.is_err() {
            warn!("the end was not clean");
        }
    }
}

/// Connections as they come. One that cannot be taken (no descriptor is free) is tried again, after a moment.
fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => return Some((Ok(connection), listener)),
                Err(error) => {
                    warn!(%error, "a connection cannot be taken");
                    tokio::time::sleep(NEXT_ACCEPT).await;
                }
            }
        }
    })
}

fn registry_options(config: &Config, keychain: Arc<dyn Keychain>) -> RegistryOptions {
    let http = &config.http;
    RegistryOptions {
        user_agent: concat!("soci-snapshotter/", env!("CARGO_PKG_VERSION")).to_owned(),
        timeouts: Timeouts {
            connect: http.dial_timeout(),
            header: http.response_header_timeout(),
            whole: http.request_timeout(),
            stall: STALL,
            hedge: Some(HEDGE),
        },
        retry: RetryPolicy {
            max_retries: http.retries(),
            min_wait: http.min_wait(),
            max_wait: http.max_wait(),
        },
        hosts: HostPolicy {
            plain_http: config.registry.plain_http.iter().cloned().collect(),
            dirs: config.registry.dirs(),
            mirrors: config.resolver.mirrors(),
            ..HostPolicy::default()
        },
        keychain,
        credential_lifetime: config.resolver.credential_lifetime(),
        ..RegistryOptions::default()
    }
}

fn node_options(
    config: &Config,
    root: &Path,
    registry: Registry,
    content: LayoutStore,
    stats: Arc<Stats>,
    program: Program,
) -> Result<NodeOptions, ConfigError> {
    let background = &config.background_fetch;
    // Where nothing is lazy, nothing is to be found out or fetched ahead.
    let lazy = !config.pull_modes.parallel_pull_unpack.enable;
    let (v1, v2) = (config.pull_modes.soci_v1.enable, config.pull_modes.soci_v2.enable);
    Ok(NodeOptions {
        root: root.to_path_buf(),
        registry,
        content,
        runtime: Handle::current(),
        stats,
        discovery: Discovery { v1: lazy && v1, v2: lazy && v2 },
        prefetch: lazy && config.prefetch.enable,
        pack: if lazy { pack_options(config)? } else { PackOptions::off() },
        engine: EngineOptions {
            prefetch_layers: config.prefetch.layers(),
            max_bandwidth: config.prefetch.bandwidth(),
            background: (!background.disable).then(|| BackgroundOptions {
                silence: background.silence_period(),
                period: background.fetch_period(),
            }),
            ..EngineOptions::default()
        },
        spans: SpanOptions {
            read_timeout: config.blob.fetching_timeout(),
            retry_for: config.blob.fetching_timeout() * 9 / 10,
            verification_retries: config.blob.span_verification_retries(),
            ..SpanOptions::default()
        },
        mounts: MountsOptions {
            root: root.to_path_buf(),
            program,
            keep: if config.restart.keep_mounts {
                Keep::Mounts { abort_after: config.restart.abort_after() }
            } else {
                Keep::Nothing
            },
            fuse: FuseOptions {
                attr_timeout: config.fuse.attr_ttl(),
                entry_timeout: config.fuse.entry_ttl(),
                negative_timeout: config.fuse.negative_ttl(),
                erofs: config.fuse.erofs,
                ..FuseOptions::default()
            },
        },
    })
}

fn pack_options(config: &Config) -> Result<PackOptions, ConfigError> {
    let pack = &config.pack;
    Ok(PackOptions {
        enable: pack.enable,
        fine: pack.fine,
        max_bytes: pack.limit(),
        referrers: config.pull_modes.soci_v1.enable,
        require_verified: pack.require_verified,
        verified: pack.verified.clone(),
        chooser: pack.chooser()?,
        attributes: pack.attributes.clone(),
        advice: pack.advice,
        page_cache: pack.page_cache,
    })
}

fn unpack_options(config: &Config) -> UnpackOptions {
    let pull = &config.pull_modes.parallel_pull_unpack;
    UnpackOptions {
        layers_at_once: pull.layers_at_once(),
        chunk_size: pull.chunk_size().unwrap_or(CHUNK),
        requests_per_layer: pull.requests_per_layer(),
        requests_at_once: pull.requests_at_once(),
    }
}

fn policy(config: &Config) -> Policy {
    let pull = &config.pull_modes.parallel_pull_unpack;
    Policy {
        mount_timeout: config.mount_timeout(),
        always_whole: pull.enable,
        whole_without_index: pull.experimental_parallel_pull_as_fallback,
        min_layer_size: config.snapshotter.min_layer_size(),
        remap_ids: config.snapshotter.remap_ids,
        retry_mounted: config.restart.abort_after(),
    }
}
