//! Bodies of requests: content that can be sent again after a failure.
//!
//! [`Content`] owns nothing but bytes or a path. Invariant: a streamed body has exactly the announced length,
//! else sending fails.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::header::CONTENT_LENGTH;
use reqwest::{Body, RequestBuilder};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::time::{Instant, sleep};

use super::traffic::Traffic;
use crate::units::ByteRange;

/// Size of the pieces in which content is sent; also the largest content sent in one piece.
const PIECE: usize = 256 << 10;

/// What a request carries, or what a push sends.
#[derive(Debug, Clone)]
pub enum Content {
    /// Nothing.
    Empty,
    /// Bytes in memory.
    Bytes(Bytes),
    /// Part of a file; it must not change while it is being sent.
    File {
        /// The file.
        path: PathBuf,
        /// The part of it, in bytes.
        part: ByteRange,
    },
}

/// Progress of a body that is being sent.
#[derive(Debug)]
pub(crate) struct Progress {
    sent: Arc<AtomicU64>,
    length: u64,
}

impl Content {
    /// The whole file at `path`, with the size it has now.
    pub fn file(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let size = std::fs::metadata(&path)?.len();
        Ok(Self::File { path, part: ByteRange::new(0, size) })
    }

    /// Number of bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { part, .. } => part.len(),
        }
    }

    /// The bytes of `self` at `part`, which must lie within.
    pub(crate) fn part(&self, part: ByteRange) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Bytes(bytes) => Self::Bytes(bytes.slice(part.start as usize..part.end as usize)),
            Self::File { path, part: whole } => Self::File {
                path: path.clone(),
                part: ByteRange::new(whole.start + part.start, whole.start + part.end),
            },
        }
    }

    /// Puts the content into `request`. Long content is streamed, and its progress can be watched.
    pub(crate) async fn attach(
        &self,
        request: RequestBuilder,
        traffic: &Arc<Traffic>,
    ) -> io::Result<(RequestBuilder, Option<Progress>)> {
        let length = self.size();
        let sent = Arc::new(AtomicU64::new(0));
        let count = {
            let (traffic, sent) = (Arc::clone(traffic), Arc::clone(&sent));
            move |bytes: usize| {
                traffic.count_sent(bytes);
                sent.fetch_add(bytes as u64, Relaxed);
            }
        };
        let body = match self {
            Self::Empty => return Ok((request, None)),
            Self::Bytes(bytes) if bytes.len() <= PIECE => {
                count(bytes.len());
                return Ok((request.body(bytes.clone()), None));
            }
            Self::Bytes(bytes) => Body::wrap_stream(stream::unfold(bytes.clone(), move |mut rest| {
                let piece = rest.split_to(rest.len().min(PIECE));
                count(piece.len());
                std::future::ready((!piece.is_empty()).then_some((io::Result::Ok(piece), rest)))
            })),
            Self::File { path, part } => {
                let mut file = tokio::fs::File::open(path).await?;
                file.seek(io::SeekFrom::Start(part.start)).await?;
                let source = (file.take(part.len()), count);
                Body::wrap_stream(stream::try_unfold(source, |(mut file, count)| async move {
                    let mut piece = BytesMut::with_capacity(PIECE);
                    if file.limit() == 0 {
                        return Ok(None);
                    }
                    if file.read_buf(&mut piece).await? == 0 {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
                    }
                    count(piece.len());
                    io::Result::Ok(Some((piece.freeze(), (file, count))))
                }))
            }
        };
        Ok((request.header(CONTENT_LENGTH, length).body(body), Some(Progress { sent, length })))
    }
}

impl Progress {
    /// Ends when nothing was sent for `stall`, or, once all is sent, when no answer came for `answer`.
    pub(crate) async fn stalled(&self, stall: Duration, answer: Duration) {
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            let limit = if seen == self.length { answer } else { stall };
            sleep(Duration::from_millis(250).min(limit)).await;
            let sent = self.sent.load(Relaxed);
            if sent != seen {
                (seen, since) = (sent, Instant::now());
            } else if since.elapsed() >= limit {
                return;
            }
        }
    }
}
