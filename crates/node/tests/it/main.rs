//! Whole parts of a node, at their edges.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod egress;
