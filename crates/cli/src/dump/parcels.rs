//! A dump on its way to the server: the node's way of sending, by a user's right.

use client::Client;
use client::blob::Progress;
use dump::parcel::SplitError;
use node::parcel::{ParcelError, Sent, Sink};

/// Cuts a dump, or hands on the frames of one that was cut, sends what the server does not have, and returns what the cutter
/// returned.
pub(crate) async fn send<T: Send + 'static>(
    client: &Client,
    split: impl FnOnce(Sink<'_>) -> Result<T, SplitError> + Send + 'static,
    progress: &Progress,
) -> anyhow::Result<(T, Sent)> {
    node::parcel::send(client, split, &**progress).await.map_err(plain)
}

/// Returns what went wrong; what the server said counts as its own words.
pub(super) fn plain(error: ParcelError) -> anyhow::Error {
    match error {
        ParcelError::Client(error) => error.into(),
        other => other.into(),
    }
}
