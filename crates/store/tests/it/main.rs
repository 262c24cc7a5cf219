//! Tests of the store at its edge, on real parts: folders, a real S3 server, real databases.

mod blob;
mod bucket;
