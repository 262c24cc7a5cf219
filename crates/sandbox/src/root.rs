//! What a sandbox sees as its files: a writable layer of its own over the machine's files or over an image's layers, with
//! /proc, /dev and /tmp of its own and whatever is bound besides. Built by init in its own mount namespace, before it gives
//! up what privileges it has.
//!
//! A path inside is only ever resolved by `openat2` with `RESOLVE_IN_ROOT`, and a mount is attached to what was found, not
//! to a name: no link in an image or a volume leads outside. The source of a bind may hold no link at all.
//!
//! Over the machine's own files nobody sees what `HIDDEN` and the settings name: the cover hides it (`stock.rs`), or mounts
//! do where the kernel has no opaque folders. What else belongs to root alone stays closed because no id inside is root.
//! `/home`, `/srv`, `/opt` and `/var` are seen as far as the machine's other users may read them.

mod patchwork;
pub(crate) mod private;
pub(crate) mod stock;
pub(crate) mod veil;

use crate::event::{Fault, FaultKind};
use crate::plan::{Bind, Plan, Root};
use crate::system::{self, NO_DEV, NO_EXEC, NO_SUID, READ_ONLY};
use model::Access;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use std::ffi::{CStr, CString};
use std::fmt::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use stock::{DEVICE_FOLDERS, DEVICE_LINKS, DEVICES, Stock};
use veil::Veil;

/// What is nobody's business, of the machine's own files: the superuser's home, what runs, what others left for a moment,
/// what boots it, and what somebody plugged in.
const HIDDEN: [&str; 9] = ["root", "run", "tmp", "var/tmp", "var/run", "boot", "mnt", "media", "lost+found"];
/// Bytes that one file of a sandbox's own takes at least, by which the number of its files is bounded.
const BYTES_A_FILE: u64 = 4096;
/// Files that even the smallest sandbox may make.
const MIN_FILES: u64 = 1024;
/// Terminals that a sandbox may open: those of the whole machine are counted together.
const MAX_TERMINALS: u32 = 64;
/// Parents that are made for one mount.
const MAX_PARENTS: usize = 64;

/// Folders of a spawner that its sandboxes use while they are built; each sees them in a mount namespace of its own.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    /// Where a sandbox's own layer is mounted.
    pub(crate) scratch: PathBuf,
    /// Where its root is put together.
    pub(crate) root: PathBuf,
    /// What was made ahead; none if the spawner may not make any of it.
    pub(crate) stock: Option<Stock>,
    pub(crate) veil: Veil,
    /// Other file systems of the machine, to be seen over its own files.
    pub(crate) mounts: Vec<PathBuf>,
    /// What the settings hide.
    pub(crate) hidden: Vec<PathBuf>,
    /// What a privileged builder covers by mounts, since nothing else hides it.
    pub(crate) covered: Vec<PathBuf>,
    /// Whether ids inside are other than outside, and the builder is the machine's superuser.
    pub(crate) is_privileged: bool,
    /// The id inside that owns what is made, as the machine counts it.
    pub(crate) owner: u32,
    /// The group of that.
    pub(crate) group: u32,
}

impl Ground {
    fn cover(&self) -> Option<&Path> {
        self.stock.as_ref()?.cover.as_deref()
    }
}

/// Returns what is hidden of every machine.
pub(crate) fn always_hidden() -> impl Iterator<Item = PathBuf> {
    HIDDEN.iter().map(|path| Path::new("/").join(path))
}

/// Builds the root and makes it this process's own; nothing of what was there before can be reached afterwards. Nothing of
/// it shows outside meanwhile either: in the spawner's namespace, as in that of a less privileged user, every mount only
/// receives.
pub(crate) fn enter(ground: &Ground, plan: &Plan) -> Result<(), Fault> {
    // What is bound is opened while the machine's own names still mean something.
    let sources = plan.binds.iter().map(open_source).collect::<Result<Vec<_>, _>>()?;
    make_scratch(ground, plan)?;
    let root = if plan.root != Root::Host {
        make_root(ground, plan)?
    } else if ground.is_privileged {
        let root = make_root(ground, plan)?;
        ground.mounts.iter().try_for_each(|path| bind_host(root.as_fd(), path))?;
        patchwork::cover(&ground.covered, root.as_fd())?;
        root
    } else {
        patchwork::make(ground)?
    };
    fill(ground, plan, root.as_fd())?;
    for (bind, source) in plan.binds.iter().zip(sources) {
        attach(root.as_fd(), bind, &source)?;
    }
    rustix::process::fchdir(&root).map_err(machine("the new root could not be entered"))?;
    if ground.is_privileged { cover_all(&root) } else { replace() }?;
    rustix::process::chdir("/").map_err(machine("the new root could not be entered"))
}

/// Lays the new root over the old one and makes it this process's own, as a machine does when it has started. The old one
/// cannot be uncovered: that takes `CAP_SYS_ADMIN` in the user namespace that the mounts belong to, the machine's, in which
/// nobody inside has anything; whoever climbs to the top arrives at what lies over it. To unmount it instead would have the
/// kernel wait for all processors once more, about 0.1 ms of each sandbox; it goes with the mount namespace.
fn cover_all(root: &OwnedFd) -> Result<(), Fault> {
    let what = machine("the root could not be changed");
    let old = open_folder(CWD, Path::new("/"), ResolveFlags::empty()).map_err(&what)?;
    move_to(root.as_fd(), old.as_fd()).map_err(&what)?;
    rustix::process::chroot(".").map_err(&what)
}

/// Puts the new root, which is the current folder, in the old one's place. What an ordinary user mounts belongs to the
/// namespace that the sandbox has made itself.
fn replace() -> Result<(), Fault> {
    rustix::process::pivot_root(".", ".").map_err(machine("the root could not be changed"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(machine("the old root could not be left"))
}

/// Returns what tells of an error of the machine's.
pub(crate) fn machine(what: &'static str) -> impl Fn(Errno) -> Fault {
    move |errno| Fault { kind: FaultKind::Machine, cause: format!("{what}: {errno}") }
}

fn plan_fault(cause: String) -> Fault {
    Fault { kind: FaultKind::Plan, cause }
}

fn make_scratch(ground: &Ground, plan: &Plan) -> Result<(), Fault> {
    let bytes = plan.limits.disk_bytes;
    let files = (bytes / BYTES_A_FILE).max(MIN_FILES);
    let options = CString::new(format!("mode=755,size={bytes},nr_inodes={files}")).expect("numbers hold no NUL");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", &ground.scratch, "tmpfs", flags, Some(options.as_c_str()))
        .map_err(machine("the writable layer could not be made"))?;
    rustix::process::chdir(&ground.scratch).map_err(machine("the writable layer could not be entered"))?;
    for (name, mode) in [("upper", 0o755), ("work", 0o700), ("tmp", 0o1777), ("shm", 0o1777), ("empty", 0o555)] {
        make_folder(CWD, name, mode).map_err(machine("the writable layer could not be filled"))?;
    }
    if ground.is_privileged {
        give(ground, "upper")?;
    }
    Ok(())
}

/// Makes a folder that belongs to the superuser of the inside.
fn give(ground: &Ground, path: &str) -> Result<(), Fault> {
    let (uid, gid) = (Uid::from_raw(ground.owner), Gid::from_raw(ground.owner));
    rustix::fs::chown(path, Some(uid), Some(gid)).map_err(machine("the writable layer could not be given away"))
}

fn make_folder(at: BorrowedFd<'_>, name: &str, mode: u32) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(at, name, Mode::from_raw_mode(mode))?;
    // The mask of whoever started us may have taken bits away.
    if mode & 0o7022 == 0 { Ok(()) } else { rustix::fs::chmodat(at, name, Mode::from_raw_mode(mode), AtFlags::empty()) }
}

/// Mounts the overlay and returns its root. Layers are named by open descriptors, which keeps the option short and takes
/// the meaning out of colons and commas in their paths.
fn make_root(ground: &Ground, plan: &Plan) -> Result<OwnedFd, Fault> {
    let mut options = String::from("userxattr,upperdir=upper,workdir=work,lowerdir=");
    let mut layers = Vec::new();
    match &plan.root {
        Root::Host => {
            if let Some(cover) = ground.cover() {
                push(&mut options, &mut layers, cover)?;
                options.push(':');
            }
            options.push('/');
        }
        Root::Layers(paths) if paths.is_empty() => options.push_str("empty"),
        Root::Layers(paths) => {
            for path in paths {
                if !layers.is_empty() {
                    options.push(':');
                }
                push(&mut options, &mut layers, path)?;
            }
        }
    }
    let options = CString::new(options).map_err(|_| plan_fault("a layer's path holds a NUL".to_owned()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("overlay", &ground.root, "overlay", flags, Some(options.as_c_str()))
        .map_err(machine("the root could not be laid over its layers"))?;
    open_folder(CWD, &ground.root, ResolveFlags::empty()).map_err(machine("the new root could not be opened"))
}

/// Names a layer, and keeps it open until the overlay is mounted.
fn push(options: &mut String, layers: &mut Vec<OwnedFd>, path: &Path) -> Result<(), Fault> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let layer = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| plan_fault(format!("the layer `{}` cannot be opened: {errno}", path.display())))?;
    write!(options, "/proc/self/fd/{}", layer.as_raw_fd()).expect("a string takes what it is given");
    layers.push(layer);
    Ok(())
}

fn open_folder(at: BorrowedFd<'_>, path: &Path, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(at, path, flags, Mode::empty(), resolve)
}

fn inside() -> ResolveFlags {
    ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS
}

/// Opens a folder of the new root, which is made if it is not there.
fn ensure(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Fault> {
    match open_folder(root, Path::new(name), inside()) {
        Err(Errno::NOENT) => rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755))
            .and_then(|()| open_folder(root, Path::new(name), inside())),
        other => other,
    }
    .map_err(|errno| plan_fault(format!("`/{name}` of the root cannot be made or opened: {errno}")))
}

/// Mounts what every sandbox has of its own.
fn fill(ground: &Ground, plan: &Plan, root: BorrowedFd<'_>) -> Result<(), Fault> {
    let place = ensure(root, "proc")?;
    mount_at(place.as_fd(), "proc", c"").map_err(machine("/proc could not be mounted"))?;
    let proc = open_folder(root, Path::new("proc"), inside()).map_err(machine("/proc could not be opened"))?;
    make_dev(ground, root)?;
    ground.veil.lay(ground, proc.as_fd())?;
    for name in ["tmp", "run", "sys"] {
        ensure(root, name)?;
    }
    let place = ensure(root, "tmp")?;
    let tmp = clone_tree(CWD, Path::new("tmp"), 0).map_err(machine("/tmp could not be made"))?;
    move_to(tmp.as_fd(), place.as_fd()).map_err(machine("/tmp could not be mounted"))?;
    if plan.network == model::Network::Egress {
        place_resolver(root)?;
    }
    Ok(())
}

fn make_dev(ground: &Ground, root: BorrowedFd<'_>) -> Result<(), Fault> {
    let what = machine("/dev could not be made");
    let place = ensure(root, "dev")?;
    let dev = if let Some(stock) = &ground.stock {
        let dev = clone_tree(CWD, &stock.devices, 0).map_err(&what)?;
        move_to(dev.as_fd(), place.as_fd()).map_err(&what)?;
        dev
    } else {
        mount_at(place.as_fd(), "tmpfs", c"mode=755,size=64k,nr_inodes=64").map_err(&what)?;
        let dev = open_folder(root, Path::new("dev"), inside()).map_err(&what)?;
        for (name, _) in DEVICES {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&dev, name, flags, Mode::from_raw_mode(0o666)).map_err(&what)?;
            let device = clone_tree(CWD, &Path::new("/dev").join(name), 0).map_err(&what)?;
            move_to(device.as_fd(), file.as_fd()).map_err(&what)?;
        }
        for (name, target) in DEVICE_LINKS {
            rustix::fs::symlinkat(target, &dev, name).map_err(&what)?;
        }
        for name in DEVICE_FOLDERS {
            rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755)).map_err(&what)?;
        }
        dev
    };
    let shm = clone_tree(CWD, Path::new("shm"), 0).map_err(&what)?;
    system::mount_set(shm.as_fd(), NO_EXEC, 0).map_err(&what)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::openat(&dev, "shm", flags, Mode::empty()).map_err(&what)?;
    move_to(shm.as_fd(), place.as_fd()).map_err(&what)?;
    let mut options = format!("newinstance,ptmxmode=0666,mode=0620,max={MAX_TERMINALS}");
    if ground.is_privileged {
        write!(options, ",uid={0},gid={0}", ground.owner).expect("a string takes what it is given");
    }
    let options = CString::new(options).expect("numbers hold no NUL");
    let place = rustix::fs::openat(&dev, "pts", flags, Mode::empty()).map_err(&what)?;
    mount_at(place.as_fd(), "devpts", &options).map_err(&what)
}

/// Names the resolver of the user-mode network.
fn place_resolver(root: BorrowedFd<'_>) -> Result<(), Fault> {
    std::fs::write("resolv.conf", "nameserver 10.0.2.3\n").map_err(|error| Fault {
        kind: FaultKind::Machine,
        cause: format!("`resolv.conf` could not be written: {error}"),
    })?;
    let tree = clone_tree(CWD, Path::new("resolv.conf"), 0).map_err(machine("`resolv.conf` could not be bound"))?;
    let target = Path::new("/etc/resolv.conf");
    if make_target(root, target, false).is_err() {
        // A link that leads nowhere inside, as systemd leaves one: it is replaced in the writable layer.
        let etc = ensure(root, "etc")?;
        rustix::fs::unlinkat(&etc, "resolv.conf", AtFlags::empty())
            .map_err(machine("`/etc/resolv.conf` could not be replaced"))?;
    }
    let place = make_target(root, target, false)?;
    move_to(tree.as_fd(), place.as_fd()).map_err(machine("`resolv.conf` could not be bound"))
}

/// Mounts a new file system upon what is open.
fn mount_at(place: BorrowedFd<'_>, kind: &str, options: &CStr) -> rustix::io::Result<()> {
    let place = format!("/proc/self/fd/{}", place.as_raw_fd());
    rustix::mount::mount(kind, place, kind, MountFlags::NOSUID | MountFlags::NOEXEC, Some(options))
}

fn clone_tree(at: BorrowedFd<'_>, path: &Path, flags: u32) -> rustix::io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::from_bits_retain(flags);
    rustix::mount::open_tree(at, path, flags)
}

fn move_to(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", place, "", flags)
}

/// What no mount of /proc is good for.
const CLOSED: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);
const RECURSIVE: i32 = libc::AT_RECURSIVE;

/// Shows another of the machine's file systems where it is, to be read.
fn bind_host(root: BorrowedFd<'_>, path: &Path) -> Result<(), Fault> {
    let what = machine("a file system of the machine could not be shown");
    let inner = path.strip_prefix("/").unwrap_or(path);
    let place = match open_folder(root, inner, inside() | ResolveFlags::NO_SYMLINKS) {
        // It lies in what is hidden.
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(()),
        other => other.map_err(&what)?,
    };
    let tree = match clone_tree(CWD, path, 0) {
        Err(Errno::NOENT | Errno::ACCESS) => return Ok(()),
        other => other.map_err(&what)?,
    };
    system::mount_set(tree.as_fd(), READ_ONLY | NO_SUID | NO_DEV, RECURSIVE).map_err(&what)?;
    move_to(tree.as_fd(), place.as_fd()).map_err(&what)
}

/// What is to be bound, with whether it is a folder.
pub(crate) struct Source {
    pub(crate) tree: OwnedFd,
    pub(crate) is_folder: bool,
}

/// Opens what is to be bound, restricted to what may be done with it.
pub(crate) fn open_source(bind: &Bind) -> Result<Source, Fault> {
    let name = bind.source.display();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found =
        rustix::fs::openat2(CWD, &bind.source, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map_err(|errno| {
            match errno {
                Errno::LOOP => plan_fault(format!("the mount's source `{name}` leads through a symbolic link")),
                errno => plan_fault(format!("the mount's source `{name}` cannot be opened: {errno}")),
            }
        })?;
    let kind = rustix::fs::FileType::from_raw_mode(
        rustix::fs::fstat(&found).map_err(machine("a mount's source could not be looked at"))?.st_mode,
    );
    if kind.is_symlink() {
        return Err(plan_fault(format!("the mount's source `{name}` leads through a symbolic link")));
    }
    if !kind.is_dir() && !kind.is_file() && !kind.is_socket() {
        return Err(plan_fault(format!("the mount's source `{name}` is neither a folder nor a file nor a socket")));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(&found, "", flags)
        .map_err(|errno| plan_fault(format!("the mount's source `{name}` cannot be bound: {errno}")))?;
    let access = if bind.access == Access::ReadOnly { READ_ONLY } else { 0 };
    system::mount_set(tree.as_fd(), access | NO_SUID | NO_DEV, RECURSIVE)
        .map_err(|errno| plan_fault(format!("the mount of `{name}` cannot be restricted: {errno}")))?;
    Ok(Source { tree, is_folder: kind.is_dir() })
}

fn attach(root: BorrowedFd<'_>, bind: &Bind, source: &Source) -> Result<(), Fault> {
    let place = make_target(root, &bind.target, source.is_folder)?;
    move_to(source.tree.as_fd(), place.as_fd())
        .map_err(|errno| plan_fault(format!("the mount at `{}` cannot be made: {errno}", bind.target.display())))
}

/// Finds the place of a mount within the root, and makes it and its parents if they are not there.
fn make_target(root: BorrowedFd<'_>, target: &Path, is_folder: bool) -> Result<OwnedFd, Fault> {
    let name = target.display();
    let fault = |errno: Errno| plan_fault(format!("the mount point `{name}` cannot be made: {errno}"));
    let parts: Vec<_> = target.iter().filter(|part| *part != "/").collect();
    if parts.is_empty() || parts.len() > MAX_PARENTS || parts.iter().any(|part| *part == "..") {
        return Err(plan_fault(format!("the mount point `{name}` must lie beneath `/` and not climb")));
    }
    if is_reserved(&parts) {
        return Err(plan_fault(format!("the mount point `{name}` is the sandbox's own")));
    }
    let mut path = PathBuf::new();
    for (at, part) in parts.iter().enumerate() {
        let parent = path.clone();
        path.push(part);
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::openat2(root, &path, flags, Mode::empty(), inside()) {
            Ok(found) if at + 1 == parts.len() => return Ok(found),
            Ok(_) => continue,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(fault(errno)),
        }
        let parent = if at == 0 { Path::new("/") } else { &parent };
        let parent = open_folder(root, parent, inside()).map_err(fault)?;
        if at + 1 == parts.len() && !is_folder {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&parent, *part, flags, Mode::from_raw_mode(0o644)).map_err(fault)?;
        } else {
            // Open to whoever the program is: a file placed in a new folder is often run there, and writes beside itself.
            rustix::fs::mkdirat(&parent, *part, Mode::from_raw_mode(0o755)).map_err(fault)?;
            rustix::fs::chmodat(&parent, *part, Mode::from_raw_mode(0o1777), AtFlags::empty()).map_err(fault)?;
        }
        if at + 1 == parts.len() {
            return rustix::fs::openat2(root, &path, flags, Mode::empty(), inside()).map_err(fault);
        }
    }
    Err(fault(Errno::NOENT))
}

/// Tells whether a mount there would replace what confines the sandbox, or what its programs take for granted.
fn is_reserved(parts: &[&std::ffi::OsStr]) -> bool {
    parts.first().is_some_and(|first| *first == "proc" || *first == "sys" || (*first == "dev" && parts.len() == 1))
}
