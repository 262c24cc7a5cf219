//! What goes wrong with blobs, and for whom: the caller's content, the stored content, or the place it is stored in.

use model::Digest;
use std::sync::Arc;

/// Why the source of an upload broke off.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation on blobs failed. No message carries a secret.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such blob.
    #[error("blob `{digest}` does not exist")]
    NotFound {
        /// The blob asked for.
        digest: Digest,
    },
    /// What is stored is not what the digest names; nothing false was handed out.
    #[error("the stored content of blob `{digest}` is corrupt")]
    Corrupt {
        /// The blob asked for.
        digest: Digest,
    },
    /// The content has another digest than announced; nothing was stored.
    #[error("the content has the digest `{actual}`, not `{expected}`")]
    Mismatch {
        /// The announced digest.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The content is longer than allowed; nothing was stored.
    #[error("the content is longer than {max_bytes} bytes")]
    TooLong {
        /// The limit that applied.
        max_bytes: u64,
    },
    /// The source of the content failed; nothing was stored.
    #[error("the content broke off before its end")]
    Body {
        /// What the source said.
        #[source]
        source: BodyError,
    },
    /// The range begins behind the blob's end, or ends before it begins.
    #[error("the range {start}..{end} does not fit blob `{digest}` of {size} bytes")]
    OutOfRange {
        /// The blob asked for.
        digest: Digest,
        /// Its length.
        size: u64,
        /// Where the range begins.
        start: u64,
        /// Where the range ends.
        end: u64,
    },
    /// The blob was there when the upload began and is not any more.
    #[error("blob `{digest}` was removed while it was being stored: send it again")]
    Vanished {
        /// The blob that was being stored.
        digest: Digest,
    },
    /// The configuration cannot work.
    #[error("{reason}")]
    Config {
        /// What is wrong with it.
        reason: String,
    },
    /// The bucket does not let us in.
    #[error("{place} refused to {verb} `{key}`: check the access key, its secret and its rights")]
    Refused {
        /// The bucket and its endpoint.
        place: Arc<str>,
        /// What was being done.
        verb: &'static str,
        /// To which object.
        key: String,
        /// What the bucket said.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The folder or bucket failed.
    #[error("cannot {verb} `{key}` in {place}")]
    Place {
        /// The folder, or the bucket and its endpoint.
        place: Arc<str>,
        /// What was being done.
        verb: &'static str,
        /// To which object.
        key: String,
        /// What the folder or bucket said.
        #[source]
        source: Box<object_store::Error>,
    },
    /// The local folder itself failed.
    #[error("cannot {verb} `{key}` in {place}")]
    Folder {
        /// The folder.
        place: Arc<str>,
        /// What was being done.
        verb: &'static str,
        /// To which file or folder in it.
        key: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
}
