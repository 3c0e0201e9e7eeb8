//! Names of images in containerd, what they point to, and their labels. Holds no state.

use std::collections::BTreeMap;

use prost_types::FieldMask;

use super::{
    Containerd, ContainerdError,
    content::GC_REF,
    images_api::{
        CreateImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest,
        images_client::ImagesClient,
    },
    types,
};
use crate::{digest::Digest, image::Descriptor};

/// An image as containerd names it.
#[derive(Clone, Debug)]
pub struct ImageRecord {
    /// Its full name.
    pub name: String,
    /// What the name points to: an image index or a manifest.
    pub target: Descriptor,
    /// What its labels keep.
    pub keeps: Vec<Digest>,
}

impl Containerd {
    fn images_client(&self) -> ImagesClient<tonic::transport::Channel> {
        ImagesClient::new(self.channel()).max_decoding_message_size(256 << 20)
    }

    /// The image of that full name; `None` when there is none.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn image(&self, name: &str) -> Result<Option<ImageRecord>, ContainerdError> {
        let request = self.request(GetImageRequest { name: name.to_owned() });
        match self.images_client().get(request).await.map_err(ContainerdError::status("look up an image")) {
            Ok(answer) => answer.into_inner().image.map(record).transpose(),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every image of the namespace.
    ///
    /// # Errors
    /// When containerd does not answer.
    pub async fn images(&self) -> Result<Vec<ImageRecord>, ContainerdError> {
        let request = self.request(ListImagesRequest { filters: Vec::new() });
        let answer = self.images_client().list(request).await;
        let images = answer.map_err(ContainerdError::status("list images"))?.into_inner().images;
        // Images of other digest algorithms are nothing to us.
        Ok(images.into_iter().filter_map(|image| record(image).ok()).collect())
    }

    /// Lets a name point to `target`: makes the image, or changes the one there is, whose labels stay.
    ///
    /// # Errors
    /// When containerd does not take it.
    pub async fn put_image(&self, name: &str, target: &Descriptor) -> Result<(), ContainerdError> {
        let image = Image {
            name: name.to_owned(),
            target: Some(types::Descriptor {
                media_type: target.media_type.clone(),
                digest: target.digest.to_string(),
                size: i64::try_from(target.size).unwrap_or(i64::MAX),
                annotations: target.annotations.clone().into_iter().collect(),
            }),
            ..Image::default()
        };
        let create = CreateImageRequest { image: Some(image.clone()), source_date_epoch: None };
        let made = self.images_client().create(self.request(create)).await;
        match made.map_err(ContainerdError::status("create an image")) {
            Err(error) if error.is_already_there() => self.update(image, "target".to_owned()).await,
            made => made.map(|_| ()),
        }
    }

    /// Sets one label of an image.
    ///
    /// # Errors
    /// When there is no such image.
    pub async fn label_image(&self, name: &str, key: &str, value: &str) -> Result<(), ContainerdError> {
        let labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let image = Image { name: name.to_owned(), labels: labels.into_iter().collect(), ..Image::default() };
        self.update(image, format!("labels.{key}")).await
    }

    /// Takes the labels away by which images keep a blob.
    pub(super) async fn untie(&self, digest: &Digest) -> Result<(), ContainerdError> {
        let request = self.request(ListImagesRequest { filters: Vec::new() });
        let answer = self.images_client().list(request).await;
        let images = answer.map_err(ContainerdError::status("list images"))?.into_inner().images;
        let text = digest.to_string();
        for image in &images {
            let ties = image.labels.iter().filter(|(key, value)| key.starts_with(GC_REF) && **value == text);
            for (key, _) in ties {
                // An empty value is none.
                self.label_image(&image.name, key, "").await?;
            }
        }
        Ok(())
    }

    async fn update(&self, image: Image, path: String) -> Result<(), ContainerdError> {
        let request = UpdateImageRequest {
            image: Some(image),
            update_mask: Some(FieldMask { paths: vec![path] }),
            source_date_epoch: None,
        };
        let answer = self.images_client().update(self.request(request)).await;
        answer.map(|_| ()).map_err(ContainerdError::status("update an image"))
    }
}

fn record(image: Image) -> Result<ImageRecord, ContainerdError> {
    let wrong = || ContainerdError::Protocol(format!("image {:?} has no usable target", image.name));
    let target = image.target.as_ref().ok_or_else(wrong)?;
    let digest = target.digest.parse().map_err(|_| wrong())?;
    let size = u64::try_from(target.size).map_err(|_| wrong())?;
    let labels = image.labels.iter().filter(|(key, _)| key.starts_with(GC_REF));
    let keeps = labels.filter_map(|(_, value)| value.parse().ok()).collect();
    let target = Descriptor::new(target.media_type.clone(), digest, size);
    Ok(ImageRecord { target, keeps, name: image.name })
}
