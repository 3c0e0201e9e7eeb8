//! Servers that answer the product's own registry client, well or badly.
//!
//! [`Servers`] owns nothing but the run it belongs to: how a server behaves is the plan's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use http::HeaderMap;
use soci_core::digest::Digest;
use soci_core::registry::{Answer, Network};
use soci_core::units::ByteRange;
use tokio::time::{Instant, sleep};

use super::fixture;
use super::plan::{Mood, Server};
use super::requests::PIECE;
use super::world::World;

/// All servers of a run.
#[derive(Debug)]
pub(super) struct Servers(pub(super) Arc<World>);

/// The name of a registry.
pub(super) fn registry(number: usize) -> String {
    format!("registry{number}.test")
}

/// The name of a registry's mirror.
pub(super) fn mirror(number: usize) -> String {
    format!("mirror{number}.test")
}

impl Network for Servers {
    fn exchange(self: Arc<Self>, url: String, headers: HeaderMap) -> BoxFuture<'static, Answer> {
        Box::pin(async move {
            let range = headers.get("range").map(|range| range.to_str().unwrap().to_owned());
            self.0.log(|| format!("GET {url} {}", range.as_deref().unwrap_or("whole")));
            let (server, blob) = self.meant(&url);
            let mood = server.moods.iter().rev().find(|(from, _)| *from <= self.0.elapsed()).unwrap().1;
            let mood = self.0.chance(|chance| mood.now(chance));
            let wanted = range.as_deref().map_or(ByteRange::new(0, blob.len() as u64), parse);
            let run = self.0.requests.lock().asked(&digest(&url), wanted);
            let closes = Closes { world: Arc::clone(&self.0), run };
            sleep(server.first_byte).await;
            match mood {
                Mood::Silent => std::future::pending().await,
                Mood::Refuses(status) => self.refuse(status),
                mood => self.answer(server, mood, &blob, wanted, closes),
            }
        })
    }
}

impl Servers {
    /// Which server is asked for what.
    fn meant(&self, url: &str) -> (Server, Bytes) {
        let plan = &self.0.plan;
        let host = url.split('/').nth(2).unwrap();
        let at = |number: &usize| *host == registry(*number) || *host == mirror(*number);
        let number = (0..plan.servers.len()).find(at).unwrap();
        let server = if *host == mirror(number) { plan.mirrors[number].as_ref() } else { None };
        let digest = digest(url);
        let blob = fixture::ALL.iter().find_map(|layer| {
            let windows = layer.ztoc.windows().filter(|windows| windows.digest() == digest);
            let windows = windows.and(layer.windows.clone());
            if layer.digest == digest { Some(layer.blob.clone()) } else { windows }
        });
        (server.unwrap_or(&plan.servers[number]).clone(), blob.unwrap())
    }

    fn refuse(&self, status: u16) -> Answer {
        let mut headers = HeaderMap::new();
        if status == 429 {
            let wait = self.0.chance(|chance| chance.of(0..5));
            headers.insert("retry-after", wait.into());
        }
        Answer { status, headers, body: stream::empty().boxed() }
    }

    fn answer(
        &self,
        server: Server,
        mood: Mood,
        blob: &Bytes,
        wanted: ByteRange,
        mut closes: Closes,
    ) -> Answer {
        if mood == Mood::GivesAll {
            // Its bytes are not those of the request.
            closes = Closes { world: Arc::clone(&self.0), run: None };
        }
        let mut headers = HeaderMap::new();
        let (sent, status) = match mood {
            Mood::GivesAll => (ByteRange::new(0, blob.len() as u64), 200),
            _ => (wanted, 206),
        };
        if status == 206 {
            let range = format!("bytes {}-{}/{}", sent.start, sent.end - 1, blob.len());
            headers.insert("content-range", range.parse().unwrap());
        }
        headers.insert("content-length", sent.len().into());
        let mut bytes = blob.slice(sent.start as usize..sent.end as usize);
        if mood == Mood::Lies {
            let mut wrong = bytes.to_vec();
            let at = self.0.chance(|chance| chance.of(0..wrong.len() as u64)) as usize;
            wrong[at] ^= 0x55;
            bytes = wrong.into();
        }
        let ends = matches!(mood, Mood::Cuts | Mood::StandsStill);
        let until = if ends { self.0.chance(|chance| chance.of(0..sent.len())) } else { sent.len() };
        let rate = if mood == Mood::Slow { 2 } else { server.rate };
        let body = Body { bytes, until, rate, mood, closes };
        Answer { status, headers, body: stream::unfold(body, Body::next).boxed() }
    }
}

/// A body on its way.
struct Body {
    bytes: Bytes,
    /// Bytes that still come.
    until: u64,
    rate: u64,
    mood: Mood,
    closes: Closes,
}

impl Body {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        if self.bytes.is_empty() {
            return None;
        }
        if self.until == 0 {
            if self.mood == Mood::StandsStill {
                std::future::pending::<()>().await;
            }
            let error = Err(io::ErrorKind::ConnectionReset.into());
            return Some((error, self));
        }
        let world = Arc::clone(&self.closes.world);
        let length = world.chance(|chance| chance.of(1..PIECE)).min(self.until).min(self.bytes.len() as u64);
        let takes = Duration::from_millis(length / self.rate);
        if !takes.is_zero() {
            sleep(takes).await;
        }
        let piece = self.bytes.split_to(length as usize);
        self.until -= length;
        if let Some(run) = self.closes.run {
            let mut requests = world.requests.lock();
            requests.received(run, length, Instant::now());
            if self.bytes.is_empty() {
                requests.closed(run);
            }
        }
        Some((Ok(piece), self))
    }
}

/// Tells when a body is over or given up.
struct Closes {
    world: Arc<World>,
    run: Option<u64>,
}

impl Drop for Closes {
    fn drop(&mut self) {
        if let Some(run) = self.run {
            self.world.requests.lock().closed(run);
        }
    }
}

/// The digest in the address of a blob.
fn digest(url: &str) -> Digest {
    let name = url.rsplit('/').next().unwrap();
    name.split('?').next().unwrap().replace("%3A", ":").parse().unwrap()
}

/// The bytes that a Range header names.
fn parse(header: &str) -> ByteRange {
    let (first, last) = header.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    ByteRange::new(first.parse().unwrap(), last.parse::<u64>().unwrap() + 1)
}
