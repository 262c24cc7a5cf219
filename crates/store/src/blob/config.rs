//! Where blobs are kept and how long a bucket may keep us waiting. Reading these from a file is the server's matter.

use super::error::BlobError;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::client::ClientOptions;
use object_store::{BackoffConfig, RetryConfig};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where blobs are kept.
#[derive(Clone)]
pub enum BlobConfig {
    /// In a folder of this machine.
    Local {
        /// The folder; it is created when it is missing.
        folder: PathBuf,
    },
    /// In a bucket of an S3-compatible server.
    S3 {
        /// The bucket; it must exist.
        bucket: String,
        /// What every key begins with; may be empty.
        prefix: String,
        /// The server's address; that of AWS in `region` when there is none.
        endpoint: Option<String>,
        /// The region that requests are signed for.
        region: String,
        /// Who we are to the bucket.
        access_key_id: String,
        /// How we prove it.
        secret_access_key: String,
        /// Whether an endpoint without TLS is acceptable.
        allow_http: bool,
    },
}

impl fmt::Debug for BlobConfig {
    /// Writes everything but the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { folder } => f.debug_struct("Local").field("folder", folder).finish(),
            Self::S3 { bucket, prefix, endpoint, region, access_key_id, secret_access_key: _, allow_http } => f
                .debug_struct("S3")
                .field("bucket", bucket)
                .field("prefix", prefix)
                .field("endpoint", endpoint)
                .field("region", region)
                .field("access_key_id", access_key_id)
                .field("secret_access_key", &"***")
                .field("allow_http", allow_http)
                .finish(),
        }
    }
}

/// How long a bucket may keep us waiting. An operation fails at the latest after `bound()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Time to connect.
    pub connect: Duration,
    /// Time for one request and its answer, the 8 MiB of a part included.
    pub request: Duration,
    /// How often a failed request is tried again.
    pub retries: usize,
    /// Time after which a failed request is not tried again.
    pub retry: Duration,
}

/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(2);

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(30),
            retries: 4,
            retry: Duration::from_secs(30),
        }
    }
}

impl Patience {
    /// Returns the time after which every single request to the bucket has succeeded or failed.
    pub fn bound(&self) -> Duration {
        self.retry + MAX_PAUSE + self.request
    }

    fn retry_config(&self) -> RetryConfig {
        let backoff =
            BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: MAX_PAUSE, ..Default::default() };
        RetryConfig { backoff, max_retries: self.retries, retry_timeout: self.retry }
    }
}

/// A bucket once its configuration was checked. Not `Debug`: see `Place`.
pub(super) struct Bucket {
    pub(super) client: AmazonS3,
    pub(super) prefix: object_store::path::Path,
    pub(super) name: String,
}

impl Bucket {
    /// Builds the client of a bucket, without contacting it.
    pub(super) fn open(config: BlobConfig, patience: Patience) -> Result<Self, BlobError> {
        let BlobConfig::S3 { bucket, prefix, endpoint, region, access_key_id, secret_access_key, allow_http } = config
        else {
            return Err(wrong("a local folder is not a bucket".into()));
        };
        for (field, value) in [
            ("bucket", &bucket),
            ("region", &region),
            ("access_key_id", &access_key_id),
            ("secret_access_key", &secret_access_key),
        ] {
            if value.trim().is_empty() {
                return Err(wrong(format!("`{field}` of the bucket for blobs is empty")));
            }
        }
        if let Some(endpoint) = &endpoint {
            check_endpoint(endpoint, allow_http)?;
        }
        let prefix = object_store::path::Path::parse(&prefix)
            .map_err(|error| wrong(format!("the prefix `{prefix}` of the bucket for blobs is not a path: {error}")))?;
        // Whoever runs us may have chosen a provider already; both are ring's, the only one in the tree.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let address = endpoint.clone().unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
        let name = format!("bucket `{bucket}` at `{address}`");
        let options = ClientOptions::new()
            .with_connect_timeout(patience.connect)
            .with_timeout(patience.request)
            .with_allow_http(allow_http);
        let builder = AmazonS3Builder::new()
            .with_bucket_name(bucket)
            .with_endpoint(address)
            .with_region(region)
            .with_access_key_id(access_key_id)
            .with_secret_access_key(secret_access_key)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            // Not every server knows the deletion of many at once, and we never delete many at once.
            .with_disable_bulk_delete(true)
            .with_client_options(options)
            .with_retry(patience.retry_config());
        let client =
            builder.build().map_err(|error| wrong(format!("the client of {name} cannot be built: {error}")))?;
        Ok(Self { client, prefix, name })
    }
}

fn wrong(reason: String) -> BlobError {
    BlobError::Config { reason }
}

/// Refuses what is no address, what carries a password into every message, and plain text where it was not allowed.
fn check_endpoint(endpoint: &str, allow_http: bool) -> Result<(), BlobError> {
    let rest = match endpoint.split_once("://") {
        Some(("https", rest)) => rest,
        Some(("http", rest)) if allow_http => rest,
        Some(("http", _)) => {
            return Err(wrong(
                "the endpoint of the bucket for blobs is not encrypted: use `https://` or set `allow_http`".into(),
            ));
        }
        _ => return Err(wrong("the endpoint of the bucket for blobs must begin with `https://` or `http://`".into())),
    };
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.is_empty() || endpoint.contains(['@', '?', '#']) {
        return Err(wrong(
            "the endpoint of the bucket for blobs must name a host, and no user, password or query".into(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(endpoint: Option<&str>, allow_http: bool) -> BlobConfig {
        BlobConfig::S3 {
            bucket: "b".into(),
            prefix: "a/b".into(),
            endpoint: endpoint.map(Into::into),
            region: "eu".into(),
            access_key_id: "id".into(),
            secret_access_key: "the-secret".into(),
            allow_http,
        }
    }

    #[test]
    fn an_endpoint_is_checked() {
        let check = |endpoint: Option<&str>, allow_http: bool, expected: Option<&str>| {
            let result = Bucket::open(bucket(endpoint, allow_http), Patience::default()).map(|opened| opened.name);
            match (result, expected) {
                (Ok(name), None) => assert!(name.contains(endpoint.unwrap_or("amazonaws")), "{name}"),
                (Err(error), Some(part)) => {
                    assert!(error.to_string().contains(part), "{error}");
                    assert!(!error.to_string().contains("hunter2"), "{error}");
                }
                (result, expected) => panic!("{endpoint:?}: {result:?}, not {expected:?}"),
            }
        };
        check(None, false, None);
        check(Some("https://s3.example"), false, None);
        check(Some("http://127.0.0.1:1"), true, None);
        check(Some("http://127.0.0.1:1"), false, Some("not encrypted"));
        check(Some("ftp://x"), true, Some("must begin with"));
        check(Some("s3.example"), true, Some("must begin with"));
        check(Some("https://"), true, Some("must name a host"));
        check(Some("https://user:hunter2@s3.example"), true, Some("no user"));
    }

    #[test]
    fn the_secret_is_never_written() {
        let config = bucket(None, false);
        let blobs = crate::blob::Blobs::open(config.clone()).expect("the configuration is right");
        let text = format!("{config:?} {blobs:?}");
        assert!(text.contains("***") && text.contains("amazonaws") && !text.contains("the-secret"), "{text}");
    }

    #[test]
    fn empty_fields_are_named() {
        let mut config = bucket(None, false);
        if let BlobConfig::S3 { region, .. } = &mut config {
            region.clear();
        }
        let error = Bucket::open(config, Patience::default()).err().expect("a region is needed");
        assert!(error.to_string().contains("`region`"), "{error}");
    }
}
