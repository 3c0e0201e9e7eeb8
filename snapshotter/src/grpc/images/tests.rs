//! A kubelet's calls through the service to a stand-in for containerd that repeats what it gets, also what nobody here knows.

use std::path::PathBuf;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::StreamBody;
use soci_core::registry::{Credential, Keychain};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tonic::transport::Server;

use super::*;

/// A part of a body.
type Frame = http_body::Frame<Bytes>;

/// Repeats the body of a request, as it comes, and says in trailers what else it got.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "runtime.v1.ImageService";
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, body) = request.into_parts();
        let method = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
        if method == "Refuse" {
            let details = Bytes::from_static(b"\x08\x05\x12\x01x");
            let status = Status::with_details(tonic::Code::NotFound, "no such image: ü", details);
            return Box::pin(async move { Ok(status.into_http()) });
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(if method == "Late" { "13" } else { "0" }));
        trailers.insert("grpc-status-details-bin", HeaderValue::from_static("CAUSAXg"));
        if let Some(seen) = head.headers.get("x-custom") {
            trailers.insert("x-seen", seen.clone());
        }
        let body = body.into_data_stream().map(|piece| piece.map(Frame::data));
        let end = tokio_stream::once(Ok::<_, Status>(Frame::trailers(trailers)));
        let answer = Response::builder()
            .header("content-type", "application/grpc")
            .header("x-method", method)
            .body(Body::new(StreamBody::new(body.chain(end))));
        Box::pin(async move { Ok(answer.unwrap()) })
    }
}

struct Place {
    credentials: Arc<CriCredentials>,
    client: Channel,
    backend: PathBuf,
    _dir: TempDir,
}

fn listen(path: &Path) -> UnixListenerStream {
    UnixListenerStream::new(UnixListener::bind(path).unwrap())
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (front, backend) = (dir.path().join("front.sock"), dir.path().join("backend.sock"));
        let credentials = Arc::new(CriCredentials::default());
        let service = ImageService::new(&backend, Arc::clone(&credentials));
        let listener = listen(&front);
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(listener));
        Self { credentials, client: lazy_channel(&front), backend, _dir: dir }
    }

    fn with_backend(self) -> Self {
        tokio::spawn(Server::builder().add_service(Echo).serve_with_incoming(listen(&self.backend)));
        self
    }

    async fn call(&self, path: &str, body: Body) -> Response<Body> {
        let request = Request::builder()
            .method("POST")
            .uri(path)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-custom", "\u{e9}t\u{e9}".as_bytes())
            .body(body);
        self.client.clone().oneshot(request.unwrap()).await.unwrap()
    }

    async fn method(&self, method: &str, body: Vec<u8>) -> Response<Body> {
        self.call(&format!("/runtime.v1.ImageService/{method}"), Body::new(Full::from(body))).await
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [b"\0", &length[..], message].concat()
}

#[tokio::test]
async fn any_call_passes_as_it_is_with_metadata_and_trailers() {
    let place = Place::new().with_backend();
    for (method, status) in [("ImageStatus", "0"), ("NeverHeardOf", "0"), ("Late", "13")] {
        let body = framed(b"\x0a\x03any\xfa\x3f\x01z");
        let answer = place.method(method, body.clone()).await;
        assert_eq!(answer.headers()["x-method"], method);
        let answer = answer.into_body().collect().await.unwrap();
        let trailers = answer.trailers().unwrap().clone();
        assert_eq!(trailers["grpc-status"], status, "{method}");
        assert_eq!(trailers["x-seen"].as_bytes(), "\u{e9}t\u{e9}".as_bytes());
        assert_eq!(trailers["grpc-status-details-bin"], "CAUSAXg");
        assert_eq!(answer.to_bytes(), body);
    }
    let refused = place.method("Refuse", Vec::new()).await;
    let status = Status::from_header_map(refused.headers()).unwrap();
    assert_eq!((status.code(), status.message()), (tonic::Code::NotFound, "no such image: ü"));
    assert_eq!(status.details(), b"\x08\x05\x12\x01x");
}

#[tokio::test]
async fn a_stream_passes_piece_by_piece() {
    let place = Place::new().with_backend();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let pieces = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let body = Body::new(StreamBody::new(pieces.map(|piece| Ok::<_, Status>(Frame::data(piece)))));
    sender.send(Bytes::from(framed(b"first"))).await.unwrap();
    let answer = place.call("/runtime.v1.ImageService/StreamImages", body).await;
    let mut answer = pin!(answer.into_body().into_data_stream());
    for number in 0..100 {
        let piece = answer.next().await.unwrap().unwrap();
        assert!(
            piece.ends_with(if number == 0 { b"first" } else { b"later" }),
            "an answer before the next question"
        );
        sender.send(Bytes::from(framed(b"later"))).await.unwrap();
    }
}

#[tokio::test]
async fn a_pull_gives_its_credential_and_passes_with_all_its_fields() {
    let place = Place::new().with_backend();
    // An image with a field that came later, a credential, a sandbox, and a field that nobody knows.
    let image = b"\x0a\x0cr.test/a/b:1\xa2\x01\x01h";
    let auth = b"\x0a\x01u\x12\x01p";
    let field = |tag: u8, bytes: &[u8]| [&[tag, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let message =
        [field(0x0a, image), field(0x12, auth), field(0x1a, b""), b"\xfa\x3f\x01z".to_vec()].concat();
    let answer = place.method("PullImage", framed(&message)).await;
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), framed(&message));
    let issued = place.credentials.credential("r.test", "a/b", &[]).await.unwrap();
    assert_eq!(issued.credential, Credential::Basic { user: "u".to_owned(), password: "p".to_owned() });

    let large = framed(&vec![0; MAX_REQUEST]);
    let refused = place.method("PullImage", large).await;
    assert_eq!(Status::from_header_map(refused.headers()).unwrap().code(), tonic::Code::ResourceExhausted);
    let nonsense = place.method("PullImage", b"\0\0\0\0\x09no".to_vec()).await;
    assert_eq!(
        nonsense.into_body().collect().await.unwrap().to_bytes(),
        &b"\0\0\0\0\x09no"[..],
        "containerd says what it is"
    );
}

#[tokio::test]
async fn only_the_image_service_passes_and_containerd_may_come_later() {
    let place = Place::new();
    let runtime = place.call("/runtime.v1.RuntimeService/Version", Body::empty()).await;
    assert_eq!(Status::from_header_map(runtime.headers()).unwrap().code(), tonic::Code::Unimplemented);
    let away = place.method("ImageFsInfo", framed(b"")).await;
    let status = Status::from_header_map(away.headers()).unwrap();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    assert!(status.message().contains("backend.sock"), "{status}");
    let place = place.with_backend();
    let answer = place.method("ImageFsInfo", framed(b"")).await;
    assert_eq!(answer.headers()["x-method"], "ImageFsInfo");
}
