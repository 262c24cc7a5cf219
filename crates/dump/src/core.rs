//! ELF cores.

pub(crate) mod elf;
