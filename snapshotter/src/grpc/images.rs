//! `runtime.v1.ImageService` on the daemon's socket: a kubelet's image calls, passed on to containerd byte by byte.
//!
//! Only translates: the credential of a pull goes to [`CriCredentials`] before the call goes on, because containerd asks for
//! snapshots while it answers. What must always hold: requests, answers, metadata, errors and trailers stay as they are, also of
//! methods that nobody here knows; nothing but the request of a pull is looked into, and nothing but that is held in memory.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::{BodyExt, Full, Limited};
use soci_core::containerd::lazy_channel;
use soci_core::error::chain;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::transport::Channel;
use tower::ServiceExt;

use super::pull_image;
use crate::keychain::CriCredentials;

const PULL: &str = "/runtime.v1.ImageService/PullImage";
/// Bytes of a pull's request: as containerd has it.
const MAX_REQUEST: usize = 16 << 20;

/// The service.
#[derive(Debug, Clone)]
pub struct ImageService {
    channel: Channel,
    socket: Arc<Path>,
    credentials: Arc<CriCredentials>,
}

impl ImageService {
    /// Passes calls on to the image service that listens on `socket`, which is connected to with the first call and whenever
    /// it was away. Must be called within a runtime.
    pub fn new(socket: &Path, credentials: Arc<CriCredentials>) -> Self {
        Self { channel: lazy_channel(socket), socket: socket.into(), credentials }
    }

    async fn pass_on(self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let request =
            if request.uri().path() == PULL { self.keep_credential(request).await? } else { request };
        self.channel.oneshot(request).await.map_err(|error| {
            let (socket, error) = (self.socket.display(), chain(&error));
            Status::unavailable(format!("the image service at {socket} does not answer: {error}"))
        })
    }

    /// Keeps the credential of a pull, if it has one, and gives the same request back.
    async fn keep_credential(&self, request: Request<Body>) -> Result<Request<Body>, Status> {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, MAX_REQUEST).collect().await;
        let body = body.map_err(|error| Status::resource_exhausted(format!("request of a pull: {error}")))?;
        let body = body.to_bytes();
        let encoding = head.headers.get("grpc-encoding").and_then(|value| value.to_str().ok());
        if let Some(sent) = pull_image::credential(&body, encoding, MAX_REQUEST) {
            tracing::debug!(image = sent.image, "the pull brings what the registry asks for");
            self.credentials.keep(&sent.image, &sent.server, sent.credential);
        }
        Ok(Request::from_parts(head, Body::new(Full::new(body))))
    }
}

impl NamedService for ImageService {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl Service<Request<Body>> for ImageService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.pass_on(request).await.unwrap_or_else(Status::into_http)) })
    }
}

#[cfg(test)]
mod tests;
