//! Images: create, list, get, remove, and the clearing away of what no image needs.

use crate::{Client, ClientError};
use model::image::ImageFreed;
use model::{Image, ImageId, ImageQuery, NewImage, Page};
use reqwest::Method;

impl Client {
    /// Has an image made; asking again with the same ids returns the one that is there.
    pub async fn image_create(&self, new: &NewImage) -> Result<Image, ClientError> {
        self.create("/v1/images", new).await
    }

    /// Returns a page of images, newest first.
    pub async fn image_list(&self, query: &ImageQuery) -> Result<Page<Image>, ClientError> {
        let mut query = query.clone();
        query.tenant = query.tenant.or_else(|| self.tenant.clone());
        self.get("/v1/images", &query).await
    }

    /// Returns an image by its id, or the newest that can be used by its name or digest.
    pub async fn image_get(&self, image: &str) -> Result<Image, ClientError> {
        self.get(&format!("/v1/images/{}", crate::request::segment(image)), &self.tenant_query()).await
    }

    /// Removes an image; what runs in it or waits for it is not touched.
    pub async fn image_remove(&self, id: ImageId) -> Result<Image, ClientError> {
        self.act(Method::DELETE, &format!("/v1/images/{id}"), None::<&()>).await
    }

    /// Drops the layers that no image and no waiting execution needs.
    pub async fn image_gc(&self) -> Result<ImageFreed, ClientError> {
        self.act(Method::POST, "/v1/images/gc", None::<&()>).await
    }
}
