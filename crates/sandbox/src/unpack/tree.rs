//! The tree that an archive is written to: every name is created in a folder that was reached without a symbolic link.
//!
//! Invariants: nothing is written through a link; what is there is replaced, never opened; a folder's handle that is kept
//! for the next entry is dropped whenever a folder is removed. The process's root is the destination already, so all this
//! is the second wall: it keeps an archive from surprising itself, the first keeps it in.

use super::UnpackError;
use super::archive::Entry;
use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Folders above a file.
const MAX_DEPTH: usize = 255;
/// Bytes of all paths of folders whose times are set at the end.
const MAX_FOLDER_BYTES: usize = 64 << 20;
/// Attributes of one file.
const MAX_ATTRIBUTES: usize = 64;
/// What an overlay that is mounted in a user namespace looks for on a folder that hides those below it.
const OPAQUE: &str = "user.overlay.opaque";

/// A path from the root, without `.`, `..` or empty parts. The root itself is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place(Vec<u8>);

impl Place {
    /// Reads a path of an archive. A leading `/` means the root of the layer, as for every other reader.
    pub(super) fn new(path: &[u8]) -> Result<Self, UnpackError> {
        let shown = || shorten(path);
        let refuse = |why: &str| Err(UnpackError::Archive(format!("the path `{}` {why}", shown())));
        if path.is_empty() || path.contains(&0) {
            return refuse(if path.is_empty() { "is empty" } else { "holds a zero byte" });
        }
        if path.len() > model::limits::MAX_PATH_BYTES {
            return refuse("is too long");
        }
        let parts: Vec<_> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
        if parts.contains(&b"..".as_slice()) {
            return refuse("leads upwards");
        }
        if parts.len() > MAX_DEPTH {
            return refuse("is too deep");
        }
        Ok(Self(parts.join(&b'/')))
    }

    pub(super) const fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the folder it lies in.
    pub(super) fn folder(&self) -> Self {
        Self(self.0.iter().rposition(|byte| *byte == b'/').map_or(Vec::new(), |at| self.0[..at].to_vec()))
    }

    /// Returns its last part.
    pub(super) fn name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// Returns the path of another name in the same folder.
    pub(super) fn beside(&self, name: &[u8]) -> Self {
        let mut path = self.folder().0;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path)
    }

    pub(super) fn shown(&self) -> String {
        if self.is_root() { "/".to_owned() } else { shorten(&self.0) }
    }
}

fn shorten(path: &[u8]) -> String {
    let shown: String = String::from_utf8_lossy(path).chars().take(200).collect();
    shown.escape_debug().to_string()
}

/// The destination.
pub(super) struct Tree {
    root: OwnedFd,
    /// The folder that was used last, which the next entry most often lies in too.
    last: Option<(Place, OwnedFd)>,
    /// How many ids there are inside; none means that everything belongs to whoever unpacks.
    ids: Option<u32>,
    folders: Vec<(Place, (i64, u32))>,
    folder_bytes: usize,
}

impl Tree {
    pub(super) fn new(root: OwnedFd, ids: Option<u32>) -> Self {
        Self { root, last: None, ids, folders: Vec::new(), folder_bytes: 0 }
    }

    /// Makes a file in place of what is there, and returns it open for writing; `finish_file` belongs to it.
    pub(super) fn file(&mut self, place: &Place) -> Result<File, UnpackError> {
        self.clear(place)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = self.parent(place)?;
        let file = fs::openat(folder, place.name(), flags, Mode::from_raw_mode(0o600));
        Ok(file.map_err(|error| fault(place, error))?.into())
    }

    pub(super) fn finish_file(&self, place: &Place, file: &File, entry: &Entry) -> Result<(), UnpackError> {
        self.dress(place, file.as_fd(), entry)?;
        fs::futimens(file, &times(entry.modified)).map_err(|error| fault(place, error))
    }

    /// Makes a folder, or takes the one that is there, and gives it what the entry says.
    pub(super) fn folder(&mut self, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        let handle = if place.is_root() {
            open_folder(self.root.as_fd(), b".").map_err(|error| fault(place, error))?
        } else {
            self.enter(place)?
        };
        self.dress(place, handle.as_fd(), entry)?;
        self.folder_bytes += place.0.len() + size_of::<(Place, (i64, u32))>();
        if self.folder_bytes > MAX_FOLDER_BYTES {
            return Err(UnpackError::Archive("it has more folders than any layer needs".to_owned()));
        }
        self.folders.push((place.clone(), entry.modified));
        Ok(())
    }

    pub(super) fn symlink(&mut self, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        if entry.link.is_empty() || entry.link.len() > model::limits::MAX_PATH_BYTES || entry.link.contains(&0) {
            return Err(UnpackError::Archive(format!("the symbolic link `{}` leads nowhere", place.shown())));
        }
        self.clear(place)?;
        let folder = self.parent(place)?;
        fs::symlinkat(entry.link.as_slice(), folder, place.name()).map_err(|error| fault(place, error))?;
        self.dress_name(place, entry)
    }

    /// Makes a hard link to a file of the same layer.
    pub(super) fn hard_link(&mut self, place: &Place, target: &Place) -> Result<(), UnpackError> {
        let lost = || {
            let what = format!(
                "the hard link `{}` leads to `{}`, which is no file of this layer",
                place.shown(),
                target.shown()
            );
            UnpackError::Archive(what)
        };
        if target.is_root() {
            return Err(lost());
        }
        if place == target {
            return Ok(());
        }
        let source = open_path(self.root.as_fd(), &target.folder()).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => lost(),
            error => fault(target, error),
        })?;
        match fs::statat(&source, target.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if !FileType::from_raw_mode(found.st_mode).is_dir() && !is_whiteout(&found) => {}
            Ok(_) | Err(Errno::NOENT) => return Err(lost()),
            Err(error) => return Err(fault(target, error)),
        }
        self.clear(place)?;
        let folder = self.parent(place)?;
        fs::linkat(source, target.name(), folder, place.name(), AtFlags::empty()).map_err(|error| match error {
            // The target lay in the folder that this link has replaced.
            Errno::NOENT => lost(),
            error => fault(place, error),
        })
    }

    pub(super) fn fifo(&mut self, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        self.clear(place)?;
        let folder = self.parent(place)?;
        fs::mknodat(folder, place.name(), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .map_err(|error| fault(place, error))?;
        // Just made, so it is no link that this could follow.
        let mode = Mode::from_raw_mode(entry.mode);
        self.dress_name(place, entry)?;
        let folder = self.parent(place)?;
        fs::chmodat(folder, place.name(), mode, AtFlags::empty()).map_err(|error| fault(place, error))
    }

    /// Hides a name of the layers below. What this layer itself has under that name stays, as OCI asks; and where this
    /// layer has a file or a link in place of a folder, nothing below it is left to be hidden.
    pub(super) fn hide(&mut self, place: &Place) -> Result<(), UnpackError> {
        if self.is_covered(&place.folder()) {
            return Ok(());
        }
        let folder = self.parent(place)?;
        match fs::statat(folder, place.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode).is_dir() => self.hide_below(place),
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => fs::mknodat(folder, place.name(), FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(|error| fault(place, error)),
            Err(error) => Err(fault(place, error)),
        }
    }

    /// Hides all that the layers below have in a folder, which is made if it is not there.
    pub(super) fn hide_below(&mut self, place: &Place) -> Result<(), UnpackError> {
        if self.is_covered(place) {
            return Ok(());
        }
        let folder = self.inside(place)?;
        fs::fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty())
            .map_err(|error| UnpackError::machine("a layer's folder cannot be marked", &error.into()))
    }

    /// Tells whether something that is no folder stands on the way to a place. A whiteout does not count: a folder that
    /// is needed takes its place.
    fn is_covered(&self, place: &Place) -> bool {
        let mut here = place.clone();
        while !here.is_root() {
            match open_path(self.root.as_fd(), &here.folder()) {
                Ok(folder) => {
                    return fs::statat(folder, here.name(), AtFlags::SYMLINK_NOFOLLOW)
                        .is_ok_and(|found| !FileType::from_raw_mode(found.st_mode).is_dir() && !is_whiteout(&found));
                }
                Err(_) => here = here.folder(),
            }
        }
        false
    }

    /// Sets the times of folders, which every entry in them has changed meanwhile.
    pub(super) fn finish(self) -> Result<(), UnpackError> {
        for (place, modified) in &self.folders {
            let Ok(folder) = open_path(self.root.as_fd(), place) else {
                // A later entry took its place.
                continue;
            };
            fs::futimens(folder, &times(*modified)).map_err(|error| fault(place, error))?;
        }
        Ok(())
    }

    /// Opens a folder, making it when it is not there and replacing what is no folder.
    fn enter(&mut self, place: &Place) -> Result<OwnedFd, UnpackError> {
        let refuse = |error| fault(place, error);
        let parent = self.parent(place)?;
        let name = place.name();
        let found = match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if FileType::from_raw_mode(found.st_mode).is_dir() => {
                return open_folder(parent, name).map_err(refuse);
            }
            Ok(found) => Some(found),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(refuse(error)),
        };
        if found.is_some() {
            fs::unlinkat(parent, name, AtFlags::empty()).map_err(refuse)?;
        }
        fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).map_err(refuse)?;
        let folder = open_folder(parent, name).map_err(refuse)?;
        if found.is_some_and(|found| is_whiteout(&found)) {
            // What this layer has removed does not come back through the folder that it puts there instead.
            fs::fsetxattr(&folder, OPAQUE, b"y", XattrFlags::empty()).map_err(refuse)?;
        }
        Ok(folder)
    }

    /// Returns the folder that a name lies in.
    fn parent(&mut self, place: &Place) -> Result<BorrowedFd<'_>, UnpackError> {
        self.inside(&place.folder())
    }

    /// Returns a folder, making it and those above it when they are not there.
    fn inside(&mut self, place: &Place) -> Result<BorrowedFd<'_>, UnpackError> {
        if place.is_root() {
            return Ok(self.root.as_fd());
        }
        if !self.last.as_ref().is_some_and(|(last, _)| last == place) {
            let handle = match open_path(self.root.as_fd(), place) {
                Ok(handle) => handle,
                Err(Errno::NOENT | Errno::NOTDIR) => self.make(place)?,
                Err(error) => return Err(fault(place, error)),
            };
            self.last = Some((place.clone(), handle));
        }
        let (_, handle) = self.last.as_ref().expect("was set just now or was right already");
        Ok(handle.as_fd())
    }

    /// Makes a folder that no entry has described, and those above it.
    fn make(&self, place: &Place) -> Result<OwnedFd, UnpackError> {
        let refuse = |error| fault(place, error);
        let mut here = open_folder(self.root.as_fd(), b".").map_err(refuse)?;
        for part in place.0.split(|byte| *byte == b'/') {
            let next = match open_folder(here.as_fd(), part) {
                Err(Errno::NOENT) => {
                    fs::mkdirat(&here, part, Mode::from_raw_mode(0o755)).map_err(refuse)?;
                    open_folder(here.as_fd(), part)
                }
                Err(Errno::NOTDIR)
                    if fs::statat(&here, part, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|found| is_whiteout(&found)) =>
                {
                    fs::unlinkat(&here, part, AtFlags::empty()).map_err(refuse)?;
                    fs::mkdirat(&here, part, Mode::from_raw_mode(0o755)).map_err(refuse)?;
                    let folder = open_folder(here.as_fd(), part).map_err(refuse)?;
                    fs::fsetxattr(&folder, OPAQUE, b"y", XattrFlags::empty()).map_err(refuse)?;
                    Ok(folder)
                }
                other => other,
            };
            here = next.map_err(refuse)?;
        }
        Ok(here)
    }

    /// Removes what is there under a name, whole.
    fn clear(&mut self, place: &Place) -> Result<(), UnpackError> {
        let folder = self.parent(place)?;
        let found = match fs::statat(folder, place.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(fault(place, error)),
        };
        if !FileType::from_raw_mode(found.st_mode).is_dir() {
            return fs::unlinkat(folder, place.name(), AtFlags::empty()).map_err(|error| fault(place, error));
        }
        // The folders on this path were just walked without a link, and nobody else is in this root.
        let path = PathBuf::from("/").join(std::ffi::OsStr::from_bytes(&place.0));
        self.last = None;
        std::fs::remove_dir_all(path).map_err(|error| UnpackError::machine("a folder cannot be replaced", &error))
    }

    /// Gives an open file or folder its owner, mode and attributes.
    fn dress(&self, place: &Place, file: BorrowedFd<'_>, entry: &Entry) -> Result<(), UnpackError> {
        if let Some((user, group)) = self.owner(place, entry)? {
            fs::fchown(file, Some(user), Some(group)).map_err(|error| fault(place, error))?;
        }
        // After the owner, whose change takes the set-id bits away.
        fs::fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(|error| fault(place, error))?;
        let kept = entry.attributes.iter().filter(|(name, _)| is_kept(name));
        if kept.clone().count() > MAX_ATTRIBUTES {
            return Err(UnpackError::Archive(format!("`{}` has more than {MAX_ATTRIBUTES} attributes", place.shown())));
        }
        for (name, value) in kept {
            match fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
                // A file system that keeps none loses nothing that a program could count on.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                // What an attribute that is too long for an inode is answered with, not only a full disk.
                Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::INVAL | Errno::NAMETOOLONG) => {
                    let what = format!("the attributes of `{}` do not fit the file system", place.shown());
                    return Err(UnpackError::Archive(what));
                }
                Err(error) => return Err(fault(place, error)),
            }
        }
        Ok(())
    }

    /// Gives a name that cannot be opened its owner and times.
    fn dress_name(&mut self, place: &Place, entry: &Entry) -> Result<(), UnpackError> {
        let owner = self.owner(place, entry)?;
        let folder = self.parent(place)?;
        if let Some((user, group)) = owner {
            fs::chownat(folder, place.name(), Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| fault(place, error))?;
        }
        fs::utimensat(folder, place.name(), &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| fault(place, error))
    }

    fn owner(&self, place: &Place, entry: &Entry) -> Result<Option<(Uid, Gid)>, UnpackError> {
        let Some(ids) = self.ids else { return Ok(None) };
        let inside = |id: u64| {
            let known = u32::try_from(id).ok().filter(|id| *id < ids);
            known.ok_or_else(|| {
                let last = ids - 1;
                let what = format!("`{}` belongs to id {id}, and a sandbox has only ids 0 to {last}", place.shown());
                UnpackError::Archive(what)
            })
        };
        Ok(Some((Uid::from_raw(inside(entry.user)?), Gid::from_raw(inside(entry.group)?))))
    }
}

/// Opens the process's root.
pub(super) fn open_root() -> Result<OwnedFd, Errno> {
    fs::openat(CWD, "/", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Attributes that belong to the user survive, except those by which an overlay is led; capabilities of files would count
/// for nothing under `no_new_privs`, and the rest belongs to systems that a sandbox has no part in.
fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !name.starts_with(b"user.overlay.") && !name.contains(&0)
}

fn is_whiteout(found: &fs::Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == 0
}

fn open_folder(from: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    // Without `NOFOLLOW`, which would say of a link only that it is no folder.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    fs::openat2(from, name, flags, Mode::empty(), resolve)
}

fn open_path(root: BorrowedFd<'_>, place: &Place) -> Result<OwnedFd, Errno> {
    open_folder(root, if place.is_root() { b"." } else { &place.0 })
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
    }
}

/// Says whose fault it is that a name cannot be made.
fn fault(place: &Place, error: Errno) -> UnpackError {
    let archive = |why: &str| UnpackError::Archive(format!("`{}` {why}", place.shown()));
    match error {
        Errno::NOSPC | Errno::DQUOT => UnpackError::Full,
        Errno::LOOP => archive("leads through a symbolic link"),
        Errno::NOTDIR => archive("leads through something that is no folder"),
        Errno::NAMETOOLONG => archive("has a name that is too long"),
        Errno::MLINK => archive("has more links than the file system can count"),
        Errno::FBIG => archive("is longer than the file system can hold"),
        error => UnpackError::Machine(format!("`{}` cannot be written: {error}", place.shown())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        let check = |path: &[u8], expected: Option<&str>| {
            let place = Place::new(path);
            assert_eq!(place.ok().map(|place| place.shown()), expected.map(str::to_owned), "{path:?}");
        };
        check(b"a/b", Some("a/b"));
        check(b"./a//./b/", Some("a/b"));
        check(b"/etc/passwd", Some("etc/passwd"));
        check(b"./", Some("/"));
        check(b"", None);
        check(b"..", None);
        check(b"a/../b", None);
        check(b"a\0b", None);
        check(b"..a/b..", Some("..a/b.."));
        check(&b"a/".repeat(256), None);
        check(&b"a".repeat(5000), None);
    }
}
