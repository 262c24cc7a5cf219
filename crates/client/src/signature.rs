//! Signatures: listed, explained, decided about; and the rules and stacks that they come from.

use crate::request::{MAX_ANSWER, Replay, segment};
use crate::{Client, ClientError};
use model::Page;
use model::signature::{
    MergeInto, Moved, NewRules, RulesFile, Signature, SignatureChange, SignatureInfo, SignatureQuery, SignedAgain,
    SignedAmong, SignedQuery, SignedStack, SplitOff,
};
use reqwest::Method;
use serde::Deserialize;

#[derive(Deserialize)]
struct RulesKept {
    #[serde(default)]
    file: Option<RulesFile>,
}

#[derive(Deserialize)]
struct Renamed {
    renamed: u64,
}

impl Client {
    /// Returns a page of the tenant's signatures, those seen last first.
    pub async fn signature_list(&self, query: &SignatureQuery) -> Result<Page<Signature>, ClientError> {
        let tenant = query.tenant.clone().or_else(|| self.tenant.clone());
        self.get("/v1/signatures", &SignatureQuery { tenant, ..query.clone() }).await
    }

    /// Returns a signature with what explains it, by its id or a beginning of that.
    pub async fn signature_get(&self, id: &str) -> Result<SignatureInfo, ClientError> {
        self.get(&format!("/v1/signatures/{}", segment(id)), &self.tenant_query()).await
    }

    /// Notes something on a signature.
    pub async fn signature_change(&self, id: &str, change: &SignatureChange) -> Result<Signature, ClientError> {
        self.act(Method::PATCH, &format!("/v1/signatures/{}", segment(id)), Some(change)).await
    }

    /// Notes that a signature's defect is fixed.
    pub async fn signature_fix(&self, id: &str) -> Result<Signature, ClientError> {
        self.act(Method::POST, &format!("/v1/signatures/{}/fix", segment(id)), None::<&()>).await
    }

    /// Notes that a signature's defect is there after all, or lets one that was merged stand by itself again.
    pub async fn signature_reopen(&self, id: &str) -> Result<Signature, ClientError> {
        self.act(Method::POST, &format!("/v1/signatures/{}/reopen", segment(id)), None::<&()>).await
    }

    /// Makes one signature part of another, or says what that would move.
    pub async fn signature_merge(&self, id: &str, merge: &MergeInto) -> Result<Moved, ClientError> {
        self.act(Method::POST, &format!("/v1/signatures/{}/merge", segment(id)), Some(merge)).await
    }

    /// Puts dumps under a signature of their own, or says what that would move.
    pub async fn signature_split(&self, id: &str, split: &SplitOff) -> Result<Moved, ClientError> {
        self.act(Method::POST, &format!("/v1/signatures/{}/split", segment(id)), Some(split)).await
    }

    /// Returns the file of rules that the tenant lays over the house's.
    pub async fn signature_rules(&self) -> Result<Option<RulesFile>, ClientError> {
        self.get::<RulesKept>("/v1/signature-rules", &self.tenant_query()).await.map(|kept| kept.file)
    }

    /// Keeps a file of rules whose text was stored as a blob.
    pub async fn signature_rules_put(&self, new: &NewRules) -> Result<RulesFile, ClientError> {
        self.json(Replay::Safe, || {
            let request = self.request(Method::PUT, "/v1/signature-rules").query(&self.tenant_query());
            request.json(new).timeout(MAX_ANSWER)
        })
        .await
    }

    /// Forgets the tenant's file of rules, and returns it.
    pub async fn signature_rules_remove(&self) -> Result<Option<RulesFile>, ClientError> {
        self.act::<RulesKept>(Method::DELETE, "/v1/signature-rules", None::<&()>).await.map(|kept| kept.file)
    }

    /// Returns a page of the stacks that dumps are signed by.
    pub async fn signature_stacks(&self, query: &SignedQuery) -> Result<Page<SignedStack>, ClientError> {
        let tenant = query.tenant.clone().or_else(|| self.tenant.clone());
        self.get("/v1/signature-stacks", &SignedQuery { tenant, ..query.clone() }).await
    }

    /// Returns a page of the stacks that some dumps are signed by.
    pub async fn signature_stacks_query(&self, query: &SignedAmong) -> Result<Page<SignedStack>, ClientError> {
        self.create("/v1/signature-stacks/query", query).await
    }

    /// Records what other rules make of stacks, and returns how many got another text; the same again changes nothing.
    pub async fn signature_stacks_sign(&self, signed: &SignedAgain) -> Result<u64, ClientError> {
        self.create::<Renamed>("/v1/signature-stacks", signed).await.map(|renamed| renamed.renamed)
    }
}
