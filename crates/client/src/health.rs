//! Whether the server is well.

use crate::{Client, ClientError};
use model::health::Health;

impl Client {
    /// Returns whether the server lives.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.get("/healthz", &()).await
    }

    /// Returns whether the server can serve; one that cannot yet answers 503, which is tried again for a while.
    pub async fn ready(&self) -> Result<Health, ClientError> {
        self.get("/readyz", &()).await
    }
}
