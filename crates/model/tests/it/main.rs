//! The integration tests of `model`, and the `tidy` test of the whole repository.
//!
//! The latter lives here because every other crate stands on this one: it needs nothing built but the words.

mod tidy;
