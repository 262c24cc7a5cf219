//! Executions: create, list, get, cancel, retry.

use crate::{Client, ClientError};
use model::{Execution, ExecutionId, ExecutionQuery, NewExecution, Page, Retry};
use reqwest::Method;

impl Client {
    /// Creates an execution; asking again with the same id and content returns the one that is there.
    pub async fn execution_create(&self, new: &NewExecution) -> Result<Execution, ClientError> {
        self.create("/v1/executions", new).await
    }

    /// Returns a page of executions, newest first.
    pub async fn execution_list(&self, query: &ExecutionQuery) -> Result<Page<Execution>, ClientError> {
        let mut query = query.clone();
        query.tenant = query.tenant.or_else(|| self.tenant.clone());
        self.get("/v1/executions", &query).await
    }

    /// Returns an execution.
    pub async fn execution_get(&self, id: ExecutionId) -> Result<Execution, ClientError> {
        self.get(&format!("/v1/executions/{id}"), &()).await
    }

    /// Stops an execution, or keeps it from beginning.
    pub async fn execution_cancel(&self, id: ExecutionId) -> Result<Execution, ClientError> {
        self.act(Method::POST, &format!("/v1/executions/{id}/cancel"), None::<&()>).await
    }

    /// Tries once more what has ended, as a new execution.
    pub async fn execution_retry(&self, id: ExecutionId, retry: &Retry) -> Result<Execution, ClientError> {
        self.create(&format!("/v1/executions/{id}/retry"), retry).await
    }
}
