//! The machine's own files for a spawner without privileges. The kernel refuses an overlay over a root with other mounts
//! beneath it to whoever may not unmount those, since it would show what they cover. So the root is a folder of the writable
//! layer, in which each folder of the machine's root is bound, to be read; what is to be hidden is covered.
//!
//! What is written outside /tmp, /var/tmp and new folders of the root is refused here, where an overlay would take it.

use super::{Ground, HIDDEN, RECURSIVE, clone_tree, inside, machine, make_folder, move_to, open_folder};
use crate::event::Fault;
use crate::system::{self, NO_DEV, NO_SUID, READ_ONLY};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Entries of the machine's root that are looked at.
const MAX_ENTRIES: usize = 256;
/// What every sandbox has of its own.
const OWN: [&str; 4] = ["proc", "dev", "sys", "tmp"];

/// Makes the root at the ground's place and returns it; the current folder is the writable layer.
pub(super) fn make(ground: &Ground) -> Result<OwnedFd, Fault> {
    let what = machine("the machine's own files could not be shown");
    let tree = clone_tree(CWD, Path::new("upper"), 0).map_err(&what)?;
    let place = open_folder(CWD, &ground.root, rustix::fs::ResolveFlags::empty()).map_err(&what)?;
    move_to(tree.as_fd(), place.as_fd()).map_err(&what)?;
    let entries = std::fs::read_dir("/").map_err(|error| what(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    for entry in entries.filter_map(Result::ok).take(MAX_ENTRIES) {
        let name = entry.file_name();
        let path = Path::new("/").join(&name);
        let Ok(found) = rustix::fs::lstat(&path) else { continue };
        let is_hidden = HIDDEN.iter().chain(&OWN).any(|hidden| Path::new(hidden) == Path::new(&name));
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Symlink => {
                let target = rustix::fs::readlink(&path, Vec::new()).map_err(&what)?;
                rustix::fs::symlinkat(target, &tree, &name).map_err(&what)?;
            }
            FileType::Directory if is_hidden => {
                make_folder(tree.as_fd(), &name.to_string_lossy(), 0o755).map_err(&what)?;
            }
            FileType::Directory => {
                make_folder(tree.as_fd(), &name.to_string_lossy(), 0o755).map_err(&what)?;
                bind(tree.as_fd(), &path)?;
            }
            _ => {}
        }
    }
    // What lies less deep was left out above.
    let deep = super::always_hidden().filter(|path| path.iter().count() > 2);
    let hidden: Vec<_> = deep.chain(ground.hidden.iter().cloned()).collect();
    cover(&hidden, tree.as_fd())?;
    Ok(tree)
}

fn bind(root: BorrowedFd<'_>, path: &Path) -> Result<(), Fault> {
    let what = machine("a folder of the machine could not be shown");
    let inner = path.strip_prefix("/").unwrap_or(path);
    let place = open_folder(root, inner, inside()).map_err(&what)?;
    let tree = match clone_tree(CWD, path, libc::AT_RECURSIVE.cast_unsigned()) {
        Err(Errno::ACCESS | Errno::NOENT) => return Ok(()),
        other => other.map_err(&what)?,
    };
    system::mount_set(tree.as_fd(), READ_ONLY | NO_SUID | NO_DEV, RECURSIVE).map_err(&what)?;
    move_to(tree.as_fd(), place.as_fd()).map_err(&what)
}

/// Mounts empty folders over these, as far as they are there, and nothing over what is no folder; a link leads to something
/// that is hidden or shown in its own right.
pub(super) fn cover(paths: &[PathBuf], root: BorrowedFd<'_>) -> Result<(), Fault> {
    let what = machine("a folder could not be hidden");
    for (index, path) in paths.iter().enumerate() {
        let Ok(inner) = path.strip_prefix("/") else { continue };
        let resolve = inside() | rustix::fs::ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let Ok(place) = rustix::fs::openat2(root, inner, flags, Mode::empty(), resolve) else { continue };
        let found = rustix::fs::fstat(&place).map_err(&what)?;
        let name = format!("cover-{index}");
        if FileType::from_raw_mode(found.st_mode).is_dir() {
            make_folder(CWD, &name, if inner.ends_with("tmp") { 0o1777 } else { 0o755 }).map_err(&what)?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, &name, flags, Mode::empty()).map_err(&what)?;
        }
        let tree = clone_tree(CWD, Path::new(&name), 0).map_err(&what)?;
        move_to(tree.as_fd(), place.as_fd()).map_err(&what)?;
    }
    Ok(())
}
