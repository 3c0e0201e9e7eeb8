//! Blobs in containerd's content store.
//!
//! Owns the streams it hands out. What must always hold: [`Containerd::blob`] never returns bytes of another digest;
//! a range that was read has exactly the length asked for.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, future, stream};
use parking_lot::Mutex;
use prost_types::FieldMask;
use tonic::Streaming;

use super::{
    Containerd, ContainerdError,
    client::next,
    content_api::{
        DeleteContentRequest, Info, InfoRequest, ListContentRequest, ReadContentRequest, ReadContentResponse,
        UpdateRequest, WriteAction, WriteContentRequest, content_client::ContentClient,
    },
};
use crate::{digest::Digest, parts::Parts, registry::RangeBody, units::ByteRange};

/// Start of the labels by which one thing keeps another.
pub(super) const GC_REF: &str = "containerd.io/gc.ref.content";
/// Bytes in one message of a write.
const PIECE: usize = 1 << 20;
/// Memory taken for a blob because of its announced length alone, bytes.
const MAX_RESERVED: u64 = 16 << 20;

/// The bytes of a blob, or of a part of it, as they arrive.
#[derive(Debug)]
pub struct BlobStream {
    answers: Streaming<ReadContentResponse>,
    remaining: u64,
}

impl BlobStream {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When containerd breaks off, or sends more or fewer bytes than were asked for.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ContainerdError> {
        match next(&mut self.answers).await.map_err(ContainerdError::status("read content"))? {
            Some(answer) if answer.data.len() as u64 > self.remaining => {
                Err(ContainerdError::Protocol("more bytes than were asked for".to_owned()))
            }
            Some(answer) => {
                self.remaining -= answer.data.len() as u64;
                Ok(Some(answer.data.into()))
            }
            None if self.remaining > 0 => {
                Err(ContainerdError::Protocol(format!("{} bytes too few", self.remaining)))
            }
            None => Ok(None),
        }
    }
}

impl Containerd {
    fn contents(&self) -> ContentClient<tonic::transport::Channel> {
        ContentClient::new(self.channel()).max_decoding_message_size(256 << 20)
    }

    /// Size of a blob in bytes; `None` when it is not there.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, ContainerdError> {
        let request = self.request(InfoRequest { digest: digest.to_string() });
        let answer = self.contents().info(request).await.map_err(ContainerdError::status("look up content"));
        match answer {
            Ok(answer) => Ok(answer.into_inner().info.and_then(|info| u64::try_from(info.size).ok())),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Bytes `range` of a blob. Whoever reads all of it checks the digest.
    ///
    /// # Errors
    /// When the blob is not there.
    pub async fn blob_stream(
        &self,
        digest: &Digest,
        range: ByteRange,
    ) -> Result<BlobStream, ContainerdError> {
        let remaining = range.len();
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let request = ReadContentRequest {
            digest: digest.to_string(),
            offset: number(range.start),
            size: number(remaining),
        };
        let answers = self.contents().read(self.request(request)).await;
        let answers = answers.map_err(ContainerdError::status("read content"))?.into_inner();
        Ok(BlobStream { answers, remaining })
    }

    /// Bytes `range` of a blob, all at once. Whoever knows their digest checks it.
    ///
    /// # Errors
    /// When the blob is not there or too short.
    pub async fn blob_range(&self, digest: &Digest, range: ByteRange) -> Result<Bytes, ContainerdError> {
        let mut bytes = BytesMut::with_capacity(range.len().min(MAX_RESERVED) as usize);
        if !range.is_empty() {
            let mut stream = self.blob_stream(digest, range).await?;
            while let Some(chunk) = stream.chunk().await? {
                bytes.extend_from_slice(&chunk);
            }
        }
        Ok(bytes.freeze())
    }

    /// A whole blob, of which no more than `limit` bytes are read, its digest checked; `None` when it is not there.
    ///
    /// # Errors
    /// When containerd does not answer, the blob is larger, or the bytes are damaged.
    pub async fn blob(&self, digest: &Digest, limit: u64) -> Result<Option<Bytes>, ContainerdError> {
        let Some(size) = self.blob_size(digest).await? else { return Ok(None) };
        if size > limit {
            return Err(ContainerdError::TooLarge { digest: *digest, limit });
        }
        let bytes = self.blob_range(digest, ByteRange::new(0, size)).await?;
        match Digest::of(&bytes) {
            actual if actual == *digest => Ok(Some(bytes)),
            actual => Err(ContainerdError::Mismatch { expected: *digest, actual }),
        }
    }

    /// Stores bytes under their digest. `labels` are set, whether the blob was there before or not; by them containerd
    /// knows what the blob keeps alive.
    ///
    /// # Errors
    /// When containerd does not take them.
    pub async fn put_blob(
        &self,
        bytes: Bytes,
        labels: BTreeMap<String, String>,
    ) -> Result<Digest, ContainerdError> {
        let digest = Digest::of(&bytes);
        let (total, whole) = (bytes.len(), bytes);
        let pieces = (0..total).step_by(PIECE).map(move |at| Ok(whole.slice(at..(at + PIECE).min(total))));
        match self.write(digest, total as u64, stream::iter(pieces), labels.clone()).await {
            Err(error) if error.is_already_there() => {}
            outcome => return outcome.map(|()| digest),
        }
        if !labels.is_empty() {
            let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
            let info =
                Info { digest: digest.to_string(), labels: labels.into_iter().collect(), ..Info::default() };
            let update = UpdateRequest { info: Some(info), update_mask: Some(FieldMask { paths }) };
            let answer = self.contents().update(self.request(update)).await;
            answer.map_err(ContainerdError::status("label content"))?;
        }
        Ok(digest)
    }

    /// Stores a blob of `total` bytes that comes in parts. What is not the blob of that digest is not kept.
    ///
    /// # Errors
    /// When containerd does not take it, or a part cannot be read.
    pub(crate) async fn put_parts(
        &self,
        digest: Digest,
        total: u64,
        parts: Parts,
    ) -> Result<(), ContainerdError> {
        match self.write(digest, total, stream::iter(parts), BTreeMap::new()).await {
            Err(error) if error.is_already_there() => Ok(()),
            outcome => outcome,
        }
    }

    /// Stores a blob of `total` bytes as a registry sends it. What is not the blob of that digest is not kept.
    ///
    /// # Errors
    /// When containerd does not take it, or the registry breaks off.
    pub async fn put_body(
        &self,
        digest: Digest,
        total: u64,
        body: RangeBody,
        labels: BTreeMap<String, String>,
    ) -> Result<(), ContainerdError> {
        let chunks = stream::unfold(Some(body), |body| async move {
            let mut body = body?;
            match body.chunk().await {
                Ok(chunk) => Some((Ok(chunk?), Some(body))),
                Err(error) => Some((Err(io::Error::other(error)), None)),
            }
        });
        match self.write(digest, total, chunks, labels).await {
            Err(error) if error.is_already_there() => Ok(()),
            outcome => outcome,
        }
    }

    async fn write(
        &self,
        digest: Digest,
        total: u64,
        parts: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        labels: BTreeMap<String, String>,
    ) -> Result<(), ContainerdError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("soci-{}-{}-{digest}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let message = move |action: WriteAction, offset: u64, data: Bytes| WriteContentRequest {
            action: action.into(),
            r#ref: name.clone(),
            total: total as i64,
            expected: digest.to_string(),
            offset: offset as i64,
            data: data.into(),
            labels: HashMap::new(),
        };
        let first = message(WriteAction::Stat, 0, Bytes::new());
        let commit = WriteContentRequest {
            labels: labels.into_iter().collect(),
            ..message(WriteAction::Commit, total, Bytes::new())
        };
        let unread = Arc::new(Mutex::new(None));
        let noted = Arc::clone(&unread);
        let pieces = parts.scan(0, move |at, part| {
            future::ready(match part {
                Ok(data) => {
                    let offset = *at;
                    *at += data.len() as u64;
                    Some(message(WriteAction::Write, offset, data))
                }
                // The commit fails then: it names the length and the digest of the whole.
                Err(error) => {
                    *noted.lock() = Some(error);
                    None
                }
            })
        });
        let messages = stream::iter([first]).chain(pieces).chain(stream::iter([commit]));
        let sent = self.send(messages).await;
        match unread.lock().take() {
            Some(error) => {
                Err(ContainerdError::Protocol(format!("what is to be stored cannot be read: {error}")))
            }
            None => sent,
        }
    }

    async fn send(
        &self,
        messages: impl Stream<Item = WriteContentRequest> + Send + 'static,
    ) -> Result<(), ContainerdError> {
        let failed = || ContainerdError::status("write content");
        let answers = self.contents().write(self.request(messages)).await;
        let mut answers = answers.map_err(failed())?.into_inner();
        while next(&mut answers).await.map_err(failed())?.is_some() {}
        Ok(())
    }

    /// Every blob of the namespace with its size in bytes.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn blobs(&self) -> Result<Vec<(Digest, u64)>, ContainerdError> {
        let failed = || ContainerdError::status("list content");
        let request = self.request(ListContentRequest { filters: Vec::new() });
        let mut answers = self.contents().list(request).await.map_err(failed())?.into_inner();
        let mut blobs = Vec::new();
        while let Some(answer) = next(&mut answers).await.map_err(failed())? {
            blobs.extend(
                answer
                    .info
                    .iter()
                    .filter_map(|info| Some((info.digest.parse().ok()?, u64::try_from(info.size).ok()?))),
            );
        }
        Ok(blobs)
    }

    /// Lets go of a blob that an image's labels keep. It is deleted, unless another blob or image names it.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn let_go(&self, digest: &Digest) -> Result<(), ContainerdError> {
        self.untie(digest).await?;
        if self.is_named(digest).await? { Ok(()) } else { self.delete_blob(digest).await }
    }

    /// Whether a blob's labels or an image name it.
    async fn is_named(&self, digest: &Digest) -> Result<bool, ContainerdError> {
        if self.images().await?.iter().any(|image| image.target.digest == *digest) {
            return Ok(true);
        }
        let failed = || ContainerdError::status("list content");
        let request = self.request(ListContentRequest { filters: Vec::new() });
        let mut answers = self.contents().list(request).await.map_err(failed())?.into_inner();
        let text = digest.to_string();
        while let Some(answer) = answers.message().await.map_err(failed())? {
            let names = |(key, value): (&String, &String)| key.starts_with(GC_REF) && *value == text;
            if answer.info.iter().flat_map(|info| &info.labels).any(names) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes a blob; one that is not there is no error.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn delete_blob(&self, digest: &Digest) -> Result<(), ContainerdError> {
        let request = self.request(DeleteContentRequest { digest: digest.to_string() });
        match self.contents().delete(request).await.map_err(ContainerdError::status("delete content")) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
