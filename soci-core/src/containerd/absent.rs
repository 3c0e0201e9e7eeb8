//! containerd for a program that is built without it: there is none, so nothing of it can ever be called.
//!
//! Holds no state, and cannot: [`Containerd`] has no value. It lets images and stores name containerd as one of their
//! places without linking gRPC into those who never go there.

#![allow(clippy::unused_async, reason = "the signatures are those of the real one")]

use std::{collections::BTreeMap, convert::Infallible, fmt, future::Future};

use bytes::Bytes;

use crate::{digest::Digest, image::Descriptor, parts::Parts, units::ByteRange};

/// No failure either.
#[derive(Debug)]
pub enum ContainerdError {}

impl fmt::Display for ContainerdError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl std::error::Error for ContainerdError {}

/// containerd, which is not there.
#[derive(Clone, Debug)]
pub struct Containerd(Infallible);

/// An image of it.
#[derive(Clone, Debug)]
pub struct ImageRecord {
    /// What its name points to.
    pub target: Descriptor,
}

/// Bytes from it.
#[derive(Debug)]
pub struct BlobStream(Infallible);

impl BlobStream {
    /// Never called.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ContainerdError> {
        match self.0 {}
    }
}

impl Containerd {
    /// Never called.
    pub fn wait<T>(&self, _: impl Future<Output = T>) -> T {
        match self.0 {}
    }

    /// Never called.
    pub async fn image(&self, _: &str) -> Result<Option<ImageRecord>, ContainerdError> {
        match self.0 {}
    }

    /// Never called.
    pub async fn blob_size(&self, _: &Digest) -> Result<Option<u64>, ContainerdError> {
        match self.0 {}
    }

    /// Never called.
    pub async fn blob_stream(&self, _: &Digest, _: ByteRange) -> Result<BlobStream, ContainerdError> {
        match self.0 {}
    }

    /// Never called.
    pub async fn blob_range(&self, _: &Digest, _: ByteRange) -> Result<Bytes, ContainerdError> {
        match self.0 {}
    }

    /// Never called.
    pub async fn blob(&self, _: &Digest, _: u64) -> Result<Option<Bytes>, ContainerdError> {
        match self.0 {}
    }

    /// Never called.
    pub async fn put_blob(&self, _: Bytes, _: BTreeMap<String, String>) -> Result<Digest, ContainerdError> {
        match self.0 {}
    }

    /// Never called.
    pub(crate) async fn put_parts(&self, _: Digest, _: u64, _: Parts) -> Result<(), ContainerdError> {
        match self.0 {}
    }

    /// Never called.
    pub async fn blobs(&self) -> Result<Vec<(Digest, u64)>, ContainerdError> {
        match self.0 {}
    }

    /// Never called.
    pub async fn let_go(&self, _: &Digest) -> Result<(), ContainerdError> {
        match self.0 {}
    }

    /// Never called.
    pub async fn delete_blob(&self, _: &Digest) -> Result<(), ContainerdError> {
        match self.0 {}
    }
}
