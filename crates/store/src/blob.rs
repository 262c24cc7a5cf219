//! Blobs: content named by its digest, on a local folder or a bucket.
