//! What this crate makes of real programs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod accuracy;
