//! What all sandboxes of a spawner have alike, made once on a file system that nobody can write: the devices, an empty
//! folder, and the *cover*, a layer between the machine's own files and a sandbox's, in which empty, opaque folders hide
//! what is not to be seen. So none of it is made, or taken down, for each of them.

use super::HIDDEN;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Stat, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use std::path::{Component, Path, PathBuf};

/// Devices that are safe in anybody's hands.
pub(super) const DEVICES: [(&str, u32); 6] =
    [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9), ("tty", 0)];
pub(super) const DEVICE_LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];
/// The folders beneath /dev on which something else is mounted.
pub(super) const DEVICE_FOLDERS: [&str; 3] = ["pts", "shm", "mqueue"];
/// By which an overlay knows that nothing beneath a folder is to be seen.
const OPAQUE: &std::ffi::CStr = c"user.overlay.opaque";

/// Where all of it is.
#[derive(Clone, Debug)]
pub(crate) struct Stock {
    pub(crate) devices: PathBuf,
    pub(crate) empty: PathBuf,
    /// None if the kernel keeps no such attributes on a tmpfs, as before Linux 6.6; then mounts hide, which takes longer.
    pub(crate) cover: Option<PathBuf>,
}

impl Stock {
    /// Makes it at `folder`, in the caller's mount namespace; `hidden` is hidden besides what always is.
    pub(crate) fn make(folder: &Path, hidden: &[PathBuf]) -> rustix::io::Result<Self> {
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        rustix::mount::mount("tmpfs", folder, "tmpfs", flags, Some(c"mode=755,size=1m,nr_inodes=4096"))?;
        let stock = Self { devices: folder.join("dev"), empty: folder.join("empty"), cover: None };
        make_devices(&stock.devices)?;
        make_folder(&stock.empty, 0o555)?;
        let cover = folder.join("cover");
        make_folder(&cover, 0o755)?;
        let cover = hides(&cover).then_some(cover);
        if let Some(cover) = &cover {
            let chosen = hidden.iter().filter_map(|path| path.strip_prefix("/").ok());
            HIDDEN.iter().map(Path::new).chain(chosen).try_for_each(|path| hide(cover, path))?;
        }
        rustix::mount::mount_remount(folder, MountFlags::RDONLY | flags, c"")?;
        Ok(Self { cover, ..stock })
    }
}

fn make_devices(folder: &Path) -> rustix::io::Result<()> {
    make_folder(folder, 0o755)?;
    for (name, minor) in DEVICES {
        let major = if name == "tty" { 5 } else { 1 };
        let (path, device) = (folder.join(name), rustix::fs::makedev(major, minor));
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)?;
        rustix::fs::chmod(&path, Mode::from_raw_mode(0o666))?;
    }
    for (name, target) in DEVICE_LINKS {
        rustix::fs::symlink(target, folder.join(name))?;
    }
    DEVICE_FOLDERS.iter().try_for_each(|name| make_folder(&folder.join(name), 0o755))
}

/// Makes a folder with just this mode, whatever the mask of whoever started us.
fn make_folder(path: &Path, mode: u32) -> rustix::io::Result<()> {
    rustix::fs::mkdir(path, Mode::from_raw_mode(mode))?;
    rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
}

/// Tells whether a folder here can be opaque.
fn hides(folder: &Path) -> bool {
    !matches!(rustix::fs::getxattr(folder, OPAQUE, &mut [0_u8; 1]), Err(Errno::OPNOTSUPP))
}

/// Puts an empty, opaque folder into the cover, over one of the machine's. What is not there yet is hidden too, since it may
/// come to be, and with it the first folder above that is missing as well. A link is not, as what it leads to is hidden or
/// shown in its own right.
fn hide(cover: &Path, path: &Path) -> rustix::io::Result<()> {
    let (mut above, mut below) = (cover.to_owned(), PathBuf::from("/"));
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(part) = part else { return Ok(()) };
        above.push(part);
        below.push(part);
        let found = match rustix::fs::lstat(&below) {
            Err(Errno::NOENT) => return blind(&above),
            found => found?,
        };
        if !FileType::from_raw_mode(found.st_mode).is_dir() {
            return Ok(());
        }
        if parts.peek().is_some() {
            make_like(&above, &found)?;
        }
    }
    blind(&above)
}

/// Makes a folder of the cover that is empty to whoever looks.
fn blind(folder: &Path) -> rustix::io::Result<()> {
    match make_folder(folder, if folder.ends_with("tmp") { 0o1777 } else { 0o755 }) {
        Ok(()) | Err(Errno::EXIST) => rustix::fs::setxattr(folder, OPAQUE, b"y", XattrFlags::empty()),
        Err(errno) => Err(errno),
    }
}

/// Makes a folder of the cover that lets the one beneath shine through, with its mode and owner.
fn make_like(folder: &Path, found: &Stat) -> rustix::io::Result<()> {
    match make_folder(folder, found.st_mode & 0o7777) {
        Err(Errno::EXIST) => return Ok(()),
        other => other?,
    }
    rustix::fs::chown(folder, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)))
}
