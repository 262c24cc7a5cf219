//! What of the machine's own files is closed to strangers, but not to the ordinary user who keeps the spawner. That user's id
//! is also the one inside, so no mode keeps a program from the user's files: what only modes close is hidden from it.
//!
//! The user's home goes whole. Elsewhere the spawner looks once, so far as a look may take; what it does not come to stays
//! as open as it is to the user.

use std::collections::VecDeque;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Folders of `/` in which programs and their settings are: what is closed there is root's.
const SYSTEM: [&str; 11] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "proc", "sys", "dev"];
/// Folders below one another that are looked at.
const MAX_DEPTH: usize = 6;
/// Entries that are looked at.
const MAX_ENTRIES: usize = 32_768;
/// Closed entries of one folder beyond which it is hidden itself.
const MAX_CLOSED: usize = 32;
/// What a stranger needs: to go into a folder, to read a file, to speak to a socket.
const ENTER: u32 = 0o001;
const READ: u32 = 0o004;
const SPEAK: u32 = 0o002;

/// Finds what is to be hidden besides what is hidden already.
pub(crate) fn find(hidden: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<_> = home().into_iter().collect();
    let known: Vec<_> = super::always_hidden().chain(hidden.iter().cloned()).collect();
    let system = SYSTEM.map(|name| Path::new("/").join(name));
    let is_seen = |path: &PathBuf| !known.iter().chain(&system).any(|one| path == one);
    let mut folders = VecDeque::from([(PathBuf::from("/"), 0)]);
    let mut left = MAX_ENTRIES;
    while let Some((folder, depth)) = folders.pop_front() {
        let mut closed = Vec::new();
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else { continue };
            if left == 0 || found.contains(&path) || !is_seen(&path) {
                continue;
            }
            left -= 1;
            if is_closed(&path, &metadata) {
                closed.push(path);
            } else if metadata.is_dir() && depth < MAX_DEPTH {
                folders.push_back((path, depth + 1));
            }
        }
        if closed.len() > MAX_CLOSED && depth > 0 {
            found.push(folder);
        } else {
            found.append(&mut closed);
        }
    }
    found
}

/// Tells whether this process may do what a stranger may not.
fn is_closed(path: &Path, found: &Metadata) -> bool {
    use rustix::fs::{Access, access};
    let kind = found.file_type();
    let (stranger, access_wanted) = if kind.is_dir() {
        (ENTER, Access::EXEC_OK)
    } else if kind.is_file() {
        (READ, Access::READ_OK)
    } else if kind.is_symlink() {
        return false;
    } else {
        (SPEAK, Access::WRITE_OK)
    };
    found.mode() & stranger == 0 && access(path, access_wanted).is_ok()
}

/// Returns the home of the user whose process this is, as the machine's list of users names it.
fn home() -> Option<PathBuf> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').nth(2) == Some(uid.as_str()))?;
    let home = Path::new(line.split(':').nth(5)?).canonicalize().ok()?;
    (home.is_absolute() && home.parent().is_some()).then_some(home)
}
