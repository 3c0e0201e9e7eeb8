//! What a kubelet asks of an image service, over a Unix socket, by hand-written messages of CRI.

use std::path::Path;

use http::uri::PathAndQuery;
use prost::Message;
use soci_core::containerd::lazy_channel;
use tonic::Status;
use tonic::transport::Channel;

/// A client of `runtime.v1.ImageService`.
#[derive(Debug, Clone)]
pub struct Kubelet {
    channel: Channel,
}

impl Kubelet {
    /// Asks who listens on `socket`, with the first call. Must be called within a runtime.
    pub fn at(socket: &Path) -> Self {
        Self { channel: lazy_channel(socket) }
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = tonic_prost::ProstCodec::<Q, A>::default();
        let answer = client.unary(tonic::Request::new(request), PathAndQuery::from_static(method), codec);
        Ok(answer.await?.into_inner())
    }

    /// Pulls an image, with user and password if they are given; gives the image's id.
    ///
    /// # Errors
    /// What the service says.
    pub async fn pull(&self, image: &str, login: Option<(&str, &str)>) -> Result<String, Status> {
        let auth = login
            .map(|(user, password)| AuthConfig { username: user.to_owned(), password: password.to_owned() });
        let request = PullImageRequest { image: Some(spec(image)), auth };
        let answer: PullImageResponse = self.call("/runtime.v1.ImageService/PullImage", request).await?;
        Ok(answer.image_ref)
    }

    /// What is known of an image.
    ///
    /// # Errors
    /// What the service says.
    pub async fn status(&self, image: &str) -> Result<Option<Image>, Status> {
        let request = OfImage { image: Some(spec(image)) };
        let answer: ImageStatusResponse = self.call("/runtime.v1.ImageService/ImageStatus", request).await?;
        Ok(answer.image)
    }

    /// All images.
    ///
    /// # Errors
    /// What the service says.
    pub async fn list(&self) -> Result<Vec<Image>, Status> {
        let answer: ListImagesResponse = self.call("/runtime.v1.ImageService/ListImages", ()).await?;
        Ok(answer.images)
    }

    /// Removes an image.
    ///
    /// # Errors
    /// What the service says.
    pub async fn remove(&self, image: &str) -> Result<(), Status> {
        self.call("/runtime.v1.ImageService/RemoveImage", OfImage { image: Some(spec(image)) }).await
    }

    /// Where images are.
    ///
    /// # Errors
    /// What the service says.
    pub async fn file_systems(&self) -> Result<Vec<String>, Status> {
        let answer: ImageFsInfoResponse = self.call("/runtime.v1.ImageService/ImageFsInfo", ()).await?;
        let all = answer.image_filesystems.into_iter().filter_map(|usage| usage.fs_id);
        Ok(all.map(|id| id.mountpoint).collect())
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned() }
}

#[derive(Clone, PartialEq, Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
    #[prost(message, optional, tag = "2")]
    auth: Option<AuthConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct AuthConfig {
    #[prost(string, tag = "1")]
    username: String,
    #[prost(string, tag = "2")]
    password: String,
}

#[derive(Clone, PartialEq, Message)]
struct PullImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

/// `ImageStatusRequest` and `RemoveImageRequest`.
#[derive(Clone, PartialEq, Message)]
struct OfImage {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct ImageStatusResponse {
    #[prost(message, optional, tag = "1")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
struct ListImagesResponse {
    #[prost(message, repeated, tag = "1")]
    images: Vec<Image>,
}

/// An image, as CRI tells of it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Image {
    /// Digest of its configuration.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its names.
    #[prost(string, repeated, tag = "2")]
    pub repo_tags: Vec<String>,
    /// Its names with digests.
    #[prost(string, repeated, tag = "3")]
    pub repo_digests: Vec<String>,
    /// Bytes.
    #[prost(uint64, tag = "4")]
    pub size: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ImageFsInfoResponse {
    #[prost(message, repeated, tag = "1")]
    image_filesystems: Vec<FilesystemUsage>,
}

#[derive(Clone, PartialEq, Message)]
struct FilesystemUsage {
    #[prost(message, optional, tag = "2")]
    fs_id: Option<FilesystemIdentifier>,
}

#[derive(Clone, PartialEq, Message)]
struct FilesystemIdentifier {
    #[prost(string, tag = "1")]
    mountpoint: String,
}
