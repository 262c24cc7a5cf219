//! What is laid over /proc, so that nothing of the machine is changed there and little is told of it. Each such mount costs
//! every sandbox 10 to 25 µs of a processor, and most of what other runtimes cover belongs to root alone, who is nobody
//! inside: the kernel's modes keep it closed. So the spawner looks once at what they leave open, and only that is covered.

use super::{CLOSED, Ground, machine};
use crate::event::Fault;
use rustix::io::Errno;
use rustix::mount::MountFlags;
use std::fs::Metadata;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is always shown to be read: parts of it belong to namespaces, and so to whoever is root in one.
const SYS: &str = "sys";
/// Folders and files through which a machine is changed rather than seen.
const CONTROLS: [&str; 4] = ["sysrq-trigger", "irq", "bus", "fs"];
/// Files that tell of the machine's memory, keys and timers.
const TELLTALES: [&str; 5] = ["kcore", "keys", "timer_list", "sched_debug", "kmsg"];
/// Folders that tell of the machine's parts.
const PARTS: [&str; 2] = ["acpi", "scsi"];
/// What strangers may do by a file's mode.
const STRANGERS_READ: u32 = 0o004;
const STRANGERS_WRITE: u32 = 0o002;
/// Entries that are looked at; in what has more the rest is taken for open.
const MAX_ENTRIES: usize = 16_384;
/// Folders below one another that are looked at.
const MAX_DEPTH: u32 = 8;

/// What is covered.
#[derive(Clone, Debug)]
pub(crate) struct Veil {
    read_only: Vec<&'static str>,
    masked: Vec<&'static str>,
    empty: Vec<&'static str>,
}

impl Veil {
    /// Looks at what this machine's /proc leaves open.
    pub(crate) fn find() -> Self {
        let proc = Path::new("/proc");
        let there = |name: &str| std::fs::symlink_metadata(proc.join(name)).ok();
        let open = CONTROLS.into_iter().filter(|name| is_open(&proc.join(name), 0, &mut MAX_ENTRIES.clone()));
        let told = |name: &&str| there(name).is_some_and(|found| is_for_strangers(&found, STRANGERS_READ));
        Self {
            read_only: std::iter::once(SYS).chain(open).collect(),
            masked: TELLTALES.into_iter().filter(told).collect(),
            empty: PARTS.into_iter().filter(|name| there(name).is_some()).collect(),
        }
    }

    /// Lays it over; the places are named from within /proc, where the kernel alone makes names. The current folder is the
    /// writable layer.
    pub(super) fn lay(&self, ground: &Ground, proc: BorrowedFd<'_>) -> Result<(), Fault> {
        let what = machine("/proc could not be masked");
        let (null, empty) = ground.stock.as_ref().map_or_else(
            || (PathBuf::from("/dev/null"), ground.scratch.join("empty")),
            |stock| (stock.devices.join("null"), stock.empty.clone()),
        );
        rustix::process::fchdir(proc).map_err(&what)?;
        for name in &self.read_only {
            if bind(Path::new(name), name).map_err(&what)? {
                let flags = MountFlags::BIND | MountFlags::RDONLY | CLOSED;
                rustix::mount::mount_remount(*name, flags, c"").map_err(&what)?;
            }
        }
        self.masked.iter().try_for_each(|name| bind(&null, name).map(drop)).map_err(&what)?;
        for name in &self.empty {
            if bind(&empty, name).map_err(&what)? && ground.stock.is_none() {
                let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
                rustix::mount::mount_remount(*name, flags, c"").map_err(&what)?;
            }
        }
        rustix::process::chdir(&ground.scratch).map_err(&what)
    }
}

/// Tells whether somebody other than root may change something of it.
fn is_open(path: &Path, depth: u32, left: &mut usize) -> bool {
    let Ok(found) = std::fs::symlink_metadata(path) else { return false };
    if found.is_symlink() {
        return false;
    }
    *left = left.saturating_sub(1);
    if *left == 0 || depth > MAX_DEPTH || is_for_strangers(&found, STRANGERS_WRITE) {
        return true;
    }
    // What cannot be listed here is listed for nobody inside.
    let entries = found.is_dir().then(|| std::fs::read_dir(path).ok()).flatten();
    entries.into_iter().flatten().flatten().any(|entry| is_open(&entry.path(), depth + 1, left))
}

fn is_for_strangers(found: &Metadata, what: u32) -> bool {
    found.uid() != 0 || found.mode() & what != 0
}

/// Binds something over a name in the current folder; tells whether there is that name.
fn bind(source: &Path, name: &str) -> rustix::io::Result<bool> {
    match rustix::mount::mount_bind(source, name) {
        Err(Errno::NOENT) if rustix::fs::access(name, rustix::fs::Access::EXISTS).is_err() => Ok(false),
        other => other.map(|()| true),
    }
}
