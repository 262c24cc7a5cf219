//! What the server writes about itself.

use crate::{Client, ClientError};
use model::log::{LogChange, LogLevels};
use reqwest::Method;

impl Client {
    /// Returns what every module says at present.
    pub async fn log_levels(&self) -> Result<LogLevels, ClientError> {
        self.get("/v1/log/levels", &()).await
    }

    /// Changes what modules say, and returns what they say then.
    pub async fn log_set(&self, change: &LogChange) -> Result<LogLevels, ClientError> {
        self.act(Method::PUT, "/v1/log/levels", Some(change)).await
    }
}
