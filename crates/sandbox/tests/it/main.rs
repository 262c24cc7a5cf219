//! The sandbox, on this machine's own kernel.

mod unpack;
