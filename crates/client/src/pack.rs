//! Unwind packs of modules: which are missing, in, and out.

use crate::blob::{BlobReader, Content, Fence};
use crate::{Client, ClientError};
use bytes::Bytes;
use model::Digest;
use model::pack::{Pack, PackNames, PackPlaces, PackQuery, PacksMissing};

impl Client {
    /// Returns those of some packs that the tenant does not have.
    pub async fn packs_missing(&self, query: &PackNames) -> Result<PacksMissing, ClientError> {
        self.create("/v1/modules/missing", query).await
    }

    /// Stores a pack of a module.
    pub async fn pack_put(&self, build_id: &str, pack: Bytes) -> Result<Pack, ClientError> {
        let (path, size) = (format!("/v1/modules/{}", crate::request::segment(build_id)), pack.len() as u64);
        self.put_named(&path, &Content::Bytes(pack), size, std::sync::Arc::new(|_| ())).await
    }

    /// Returns the packs of some build ids that the tenant has.
    pub async fn pack_places(&self, query: &PackQuery) -> Result<PackPlaces, ClientError> {
        self.create("/v1/modules/places", query).await
    }

    /// Returns the packs that the tenant of an execution has that a node holds; `execution_blob_get` fetches them.
    pub async fn execution_pack_places(&self, fence: Fence, query: &PackQuery) -> Result<PackPlaces, ClientError> {
        self.ask_fenced(fence, "modules", query).await
    }

    /// Opens the first pack of a module, which has this digest.
    pub async fn pack_get(&self, build_id: &str, digest: Digest) -> Result<BlobReader, ClientError> {
        self.get_named(format!("/v1/modules/{}", crate::request::segment(build_id)), digest, None).await
    }
}
