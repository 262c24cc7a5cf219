//! What this crate makes of real programs.

mod accuracy;
