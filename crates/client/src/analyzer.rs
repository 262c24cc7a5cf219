//! Analyzers: stored, listed, removed, and set to work on dumps.

use crate::request::{MAX_ANSWER, Replay, segment};
use crate::{Client, ClientError};
use model::analyzer::{Analyzer, AnalyzerChange, AnalyzerStored, AnalyzerVersion, NewStudies, Studies};
use model::{Page, PageQuery};
use reqwest::Method;

impl Client {
    /// Stores an analyzer, or says something else of it.
    pub async fn analyzer_put(&self, name: &str, change: &AnalyzerChange) -> Result<AnalyzerStored, ClientError> {
        let path = format!("/v1/analyzers/{}", segment(name));
        self.json(Replay::Safe, || {
            self.request(Method::PUT, &path).query(&self.tenant_query()).json(change).timeout(MAX_ANSWER)
        })
        .await
    }

    /// Returns an analyzer, as its current version stands.
    pub async fn analyzer_get(&self, name: &str) -> Result<Analyzer, ClientError> {
        self.get(&format!("/v1/analyzers/{}", segment(name)), &self.tenant_query()).await
    }

    /// Returns a page of the tenant's analyzers, by their names.
    pub async fn analyzer_list(&self, query: &PageQuery) -> Result<Page<Analyzer>, ClientError> {
        self.list("/v1/analyzers", query).await
    }

    /// Returns a page of an analyzer's versions, the newest first.
    pub async fn analyzer_versions(&self, name: &str, query: &PageQuery) -> Result<Page<AnalyzerVersion>, ClientError> {
        self.list(&format!("/v1/analyzers/{}/versions", segment(name)), query).await
    }

    /// Removes an analyzer, its versions, and what is remembered of their studies.
    pub async fn analyzer_remove(&self, name: &str) -> Result<Analyzer, ClientError> {
        self.act(Method::DELETE, &format!("/v1/analyzers/{}", segment(name)), None::<&()>).await
    }

    /// Has an analyzer study some dumps, or only tells which.
    pub async fn studies_begin(&self, name: &str, new: &NewStudies) -> Result<Studies, ClientError> {
        self.create(&format!("/v1/analyzers/{}/studies", segment(name)), new).await
    }
}
