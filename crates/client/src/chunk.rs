//! Chunks: what an execution writes, read in order and waited for; and what it is sent to read.

use crate::request::{MAX_ANSWER, Replay};
use crate::{Client, ClientError};
use model::limits::MAX_HOLD;
use model::{Chunk, ChunkPage, ChunkQuery, ExecutionId};
use reqwest::Method;
use std::time::Duration;

impl Client {
    /// Returns some of what an execution wrote to output and error, waiting as long as the query says.
    pub async fn execution_chunks(&self, id: ExecutionId, query: &ChunkQuery) -> Result<ChunkPage, ClientError> {
        self.chunks(&format!("/v1/executions/{id}/chunks"), query).await
    }

    /// Returns some of what an execution was sent, waiting as long as the query says.
    pub async fn execution_input(&self, id: ExecutionId, query: &ChunkQuery) -> Result<ChunkPage, ClientError> {
        self.chunks(&format!("/v1/executions/{id}/input"), query).await
    }

    /// Sends an execution something to read, or the size of its terminal. The same number again is harmless.
    pub async fn execution_input_send(&self, id: ExecutionId, chunk: &Chunk) -> Result<Chunk, ClientError> {
        let path = format!("/v1/executions/{id}/input");
        self.json(Replay::Safe, || self.request(Method::POST, &path).json(chunk).timeout(MAX_ANSWER)).await
    }

    async fn chunks(&self, path: &str, query: &ChunkQuery) -> Result<ChunkPage, ClientError> {
        let within = MAX_ANSWER + Duration::from_millis(query.wait_ms.unwrap_or(0)).min(MAX_HOLD);
        self.json(Replay::Safe, || self.request(Method::GET, path).query(query).timeout(within)).await
    }
}
