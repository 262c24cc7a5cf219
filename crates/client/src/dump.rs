//! Dumps, and the frames and parcels that they are made of: ask, send, make known, look, note, fetch.
//!
//! Nothing is cut, packed or put together here; that is the business of who has the dump.

use crate::blob::{BlobReader, ByteRange, Content, Fence, Progress};
use crate::{Client, ClientError};
use bytes::Bytes;
use model::dump::query::{DumpQuery, DumpReport, DumpsAnalyse, DumpsChange, DumpsChanged, DumpsPurge, ReportQuery};
use model::dump::{DumpArrived, DumpChange};
use model::parcel::{FramePlaces, FrameQuery, FramesMissing, Parcel};
use model::{Blob, Digest, Dump, NewDump, Page, PageQuery};
use reqwest::Method;

impl Client {
    /// Returns those of some frames that the tenant does not have.
    pub async fn frames_missing(&self, query: &FrameQuery) -> Result<FramesMissing, ClientError> {
        self.create("/v1/frames/missing", query).await
    }

    /// Says where frames stand; those that the tenant does not have are left out.
    pub async fn frame_places(&self, query: &FrameQuery) -> Result<FramePlaces, ClientError> {
        self.create("/v1/frames/places", query).await
    }

    /// Says where frames of the tenant of an execution stand that a node holds.
    pub async fn execution_frame_places(&self, fence: Fence, query: &FrameQuery) -> Result<FramePlaces, ClientError> {
        self.ask_fenced(fence, "frames", query).await
    }

    /// Returns those of some frames that the tenant of an execution does not have that a node holds.
    pub async fn execution_frames_missing(
        &self,
        fence: Fence,
        query: &FrameQuery,
    ) -> Result<FramesMissing, ClientError> {
        self.ask_fenced(fence, "frames/missing", query).await
    }

    /// Stores a parcel; it is sent again if the connection breaks.
    pub async fn parcel_put(&self, digest: Digest, parcel: Bytes, progress: Progress) -> Result<Parcel, ClientError> {
        self.put_named(&format!("/v1/parcels/{digest}"), &Content::Bytes(parcel.clone()), parcel.len() as u64, progress)
            .await
    }

    /// Opens a part of a parcel.
    pub async fn parcel_get(&self, digest: Digest, range: ByteRange) -> Result<BlobReader, ClientError> {
        self.get_named(format!("/v1/parcels/{digest}"), digest, Some(range)).await
    }

    /// Stores the manifest of a dump that is to be made known.
    pub async fn manifest_put(&self, digest: Digest, manifest: Bytes) -> Result<Blob, ClientError> {
        let (path, size) = (format!("/v1/manifests/{digest}"), manifest.len() as u64);
        self.put_named(&path, &Content::Bytes(manifest), size, std::sync::Arc::new(|_| ())).await
    }

    /// Opens the manifest of a dump, which has this digest.
    pub async fn dump_manifest(&self, name: &str, digest: Digest) -> Result<BlobReader, ClientError> {
        self.get_named(format!("/v1/dumps/{}/manifest", crate::request::segment(name)), digest, None).await
    }

    /// Makes a dump known whose manifest and frames were stored.
    pub async fn dump_create(&self, new: &NewDump) -> Result<DumpArrived, ClientError> {
        self.create("/v1/dumps", new).await
    }

    /// Returns a page of the tenant's dumps, those uploaded last first.
    pub async fn dump_list(&self, query: &PageQuery) -> Result<Page<Dump>, ClientError> {
        self.list("/v1/dumps", query).await
    }

    /// Returns a dump, by its id, its hash or a beginning of that.
    pub async fn dump_get(&self, name: &str) -> Result<Dump, ClientError> {
        self.get(&format!("/v1/dumps/{}", crate::request::segment(name)), &self.tenant_query()).await
    }

    /// Notes something on a dump.
    pub async fn dump_change(&self, name: &str, change: &DumpChange) -> Result<Dump, ClientError> {
        self.act(Method::PATCH, &format!("/v1/dumps/{}", crate::request::segment(name)), Some(change)).await
    }

    /// Drops a dump's content, and keeps what is known of it.
    pub async fn dump_purge(&self, name: &str) -> Result<Dump, ClientError> {
        let path = format!("/v1/dumps/{}/purge", crate::request::segment(name));
        self.act(Method::POST, &path, None::<&()>).await
    }

    /// Finds the dumps that a specification means, in the order of their times.
    pub async fn dump_query(&self, query: &DumpQuery) -> Result<Page<Dump>, ClientError> {
        self.create("/v1/dumps/query", query).await
    }

    /// Counts the dumps that a specification means by the values of a field.
    pub async fn dump_report(&self, query: &ReportQuery) -> Result<DumpReport, ClientError> {
        self.create("/v1/dumps/report", query).await
    }

    /// Notes something on all dumps that a specification means, or on none.
    pub async fn dumps_change(&self, order: &DumpsChange) -> Result<DumpsChanged, ClientError> {
        self.act(Method::POST, "/v1/dumps/change", Some(order)).await
    }

    /// Drops the content of all dumps that a specification means, and keeps what is known of them.
    pub async fn dumps_purge(&self, order: &DumpsPurge) -> Result<DumpsChanged, ClientError> {
        self.act(Method::POST, "/v1/dumps/purge", Some(order)).await
    }

    /// Has all dumps that a specification means looked into again.
    pub async fn dumps_analyse(&self, order: &DumpsAnalyse) -> Result<DumpsChanged, ClientError> {
        self.act(Method::POST, "/v1/dumps/analyse", Some(order)).await
    }
}
