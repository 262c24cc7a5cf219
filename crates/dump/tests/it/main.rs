//! Tests of dumps on real ones: programs are compiled and made to crash, and what is told of them is held against what
//! `eu-stack` and `gdb` say.

mod arm;
mod core;
mod program;
