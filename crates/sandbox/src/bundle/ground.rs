//! Where a container is put together: a file system in memory, in its minder's own mounts, at a place that everybody may
//! pass through, as whoever is root inside must. It holds the bundle, the root and what is bound into it.

use super::{Bundle, machine, refusal};
use crate::event::Fault;
use crate::plan::{Place, Root};
use crate::root::open_source;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount, mount_change, move_mount, unmount,
};
use std::ffi::CString;
use std::fmt::Write;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where every minder puts its own; outside of it, this is an empty folder.
const PLACE: &str = "/run/quarry";
/// What the bundle itself may take there: its configuration, a log, a number.
const BUNDLE_BYTES: u64 = 8 << 20;
/// Bytes that one file of a container's own takes at least, by which the number of its files is bounded.
const BYTES_A_FILE: u64 = 4096;
/// Files that even the smallest container may make.
const MIN_FILES: u64 = 1024;

/// A place that is laid out.
#[derive(Debug)]
pub(super) struct Ground {
    /// The bundle's folder.
    pub(super) bundle: PathBuf,
    /// Where what is bound can be found, in the plan's order.
    pub(super) binds: Vec<PathBuf>,
}

impl Ground {
    /// Lays it out in this process's mounts, which must be its own.
    pub(super) fn make(bundle: &Bundle) -> Result<Self, Fault> {
        let Root::Layers(layers) = &bundle.plan.root else {
            return Err(refusal("another runtime than our own needs an image"));
        };
        let sources = bundle.plan.binds.iter().map(open_source).collect::<Result<Vec<_>, _>>()?;
        let laid = |error| machine("laid out", error);
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC).map_err(laid)?;
        // The one that is there tells of processes that this one does not see.
        let none = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "/proc", "proc", none, None).map_err(laid)?;
        // crun will not work on a machine with both versions of control groups unless it sees one only.
        let _ = unmount("/sys/fs/cgroup/unified", UnmountFlags::DETACH);
        let place = PathBuf::from(PLACE);
        match fs::DirBuilder::new().mode(0o711).create(&place) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(machine("laid out", error)),
            _ => {}
        }
        tmpfs(&place, BUNDLE_BYTES).map_err(laid)?;
        for name in ["scratch", "rootfs", "bind", "empty"] {
            folder(&place.join(name)).map_err(|error| machine("laid out", error))?;
        }
        let scratch = place.join("scratch");
        tmpfs(&scratch, bundle.plan.limits.disk_bytes).map_err(laid)?;
        let owner = match bundle.place {
            Place::Range { first, .. } => first,
            Place::Own => 0,
        };
        for name in ["upper", "work"] {
            let path = scratch.join(name);
            folder(&path).map_err(|error| machine("laid out", error))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .map_err(|error| machine("laid out", error))?;
            rustix::fs::chown(&path, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner))).map_err(laid)?;
        }
        overlay(&place, layers)?;
        let mut binds = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let path = place.join("bind").join(index.to_string());
            let made = if source.is_folder { folder(&path) } else { fs::File::create_new(&path).map(drop) };
            made.map_err(|error| machine("laid out", error))?;
            move_mount(&source.tree, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(laid)?;
            binds.push(path);
        }
        Ok(Self { bundle: place, binds })
    }

    /// Returns the root's folder.
    pub(super) fn root(&self) -> PathBuf {
        self.bundle.join("rootfs")
    }
}

fn folder(path: &Path) -> std::io::Result<()> {
    fs::create_dir(path)?;
    // The mask of whoever started us may have taken bits away.
    fs::set_permissions(path, fs::Permissions::from_mode(0o711))
}

fn tmpfs(path: &Path, bytes: u64) -> rustix::io::Result<()> {
    let files = (bytes / BYTES_A_FILE).max(MIN_FILES);
    let options = format!("mode=711,size={bytes},nr_inodes={files}");
    let options = CString::new(options).expect("numbers hold no NUL");
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
}

/// Lays the root over its layers. They are named by open descriptors, which keeps the option short and takes the meaning out
/// of colons and commas in their paths.
fn overlay(place: &Path, layers: &[PathBuf]) -> Result<(), Fault> {
    let (scratch, mut held) = (place.join("scratch"), Vec::new());
    let scratch = scratch.display();
    let mut options = format!("userxattr,upperdir={scratch}/upper,workdir={scratch}/work,lowerdir=");
    let empty = [place.join("empty")];
    for path in if layers.is_empty() { &empty[..] } else { layers } {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let layer = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno: Errno| refusal(format!("the layer `{}` cannot be opened: {errno}", path.display())))?;
        let separator = if held.is_empty() { "" } else { ":" };
        write!(options, "{separator}/proc/self/fd/{}", layer.as_raw_fd()).expect("a string takes what it is given");
        held.push(layer);
    }
    let options = CString::new(options).map_err(|error| machine("laid out", error))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("overlay", place.join("rootfs"), "overlay", flags, Some(options.as_c_str()))
        .map_err(|errno| machine("laid over its layers", errno))
}
