//! Dumps of Linux kernels, and what a kernel printed.

mod oops;

pub(crate) use oops::told;
