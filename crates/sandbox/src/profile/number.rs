//! Numbers of system calls, under the C library's names: its own headers', and those that they lack.
//!
//! From 424 on every machine numbers them alike.
#![expect(non_upper_case_globals, reason = "the names are the C library's")]

pub(crate) use libc::*;

pub(crate) const SYS_cachestat: c_long = 451;
pub(crate) const SYS_map_shadow_stack: c_long = 453;
pub(crate) const SYS_futex_wake: c_long = 454;
pub(crate) const SYS_futex_wait: c_long = 455;
pub(crate) const SYS_futex_requeue: c_long = 456;
pub(crate) const SYS_statmount: c_long = 457;
pub(crate) const SYS_listmount: c_long = 458;
pub(crate) const SYS_lsm_get_self_attr: c_long = 459;
pub(crate) const SYS_lsm_set_self_attr: c_long = 460;
pub(crate) const SYS_lsm_list_modules: c_long = 461;
pub(crate) const SYS_setxattrat: c_long = 463;
pub(crate) const SYS_getxattrat: c_long = 464;
pub(crate) const SYS_listxattrat: c_long = 465;
pub(crate) const SYS_removexattrat: c_long = 466;
pub(crate) const SYS_open_tree_attr: c_long = 467;
pub(crate) const SYS_file_getattr: c_long = 468;
pub(crate) const SYS_file_setattr: c_long = 469;

/// What the library's headers leave out for this machine though its kernel has it.
#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use libc::c_long;

    pub(crate) const SYS_renameat: c_long = 38;
    pub(crate) const SYS_sync_file_range: c_long = 84;
    pub(crate) const SYS_getrlimit: c_long = 163;
    pub(crate) const SYS_setrlimit: c_long = 164;
    pub(crate) const SYS_fchmodat2: c_long = 452;
}

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::*;
