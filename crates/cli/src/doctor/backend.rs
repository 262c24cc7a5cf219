//! The database and the bucket, as the doctor sees them. The looking itself belongs to `store`.

use super::finding::{Finding, Level};

/// Looks at a database: whether it answers, its version, its schema.
#[expect(clippy::unused_async, reason = "looking will wait for the database")]
pub(super) async fn database(url: &str) -> Finding {
    Finding::new("database", Level::Note, scheme(url), "this build does not look at databases")
}

/// Looks at a bucket or folder of blobs: whether it answers, and what it can do.
#[expect(clippy::unused_async, reason = "looking will wait for the bucket")]
pub(super) async fn bucket(url: &str) -> Finding {
    Finding::new("bucket", Level::Note, scheme(url), "this build does not look at buckets")
}

/// Returns the part of an address that holds no secret.
fn scheme(url: &str) -> String {
    url.split_once(':').map_or("a path", |(scheme, _)| scheme).to_owned()
}
