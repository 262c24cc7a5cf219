//! Whether the program of a bundle is where it was said to be: what another runtime did not run is told by our own look at the
//! files, since each runtime has words of its own for it. Nothing is read, and no path leaves the root.

use super::Bundle;
use super::ground::Ground;
use crate::event::FaultKind;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use std::path::{Component, Path, PathBuf};

/// What stands at a path inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    /// Something that nobody may run.
    Other,
    Program,
}

/// Says who is to blame when a runtime did not run a program that was asked for.
pub(super) fn blame(bundle: &Bundle, ground: &Ground) -> FaultKind {
    let order = &bundle.order;
    let Some(name) = order.command.first() else { return FaultKind::Order };
    let found = if name.contains('/') {
        look(bundle, ground, &Path::new(&order.cwd).join(name))
    } else {
        let places = order.path().split(':').map(|folder| Path::new(&order.cwd).join(folder).join(name));
        places.map(|place| look(bundle, ground, &place)).max().unwrap_or(Found::Nothing)
    };
    match found {
        Found::Nothing => FaultKind::NoProgram,
        Found::Other => FaultKind::NotExecutable,
        Found::Program => FaultKind::Order,
    }
}

/// Looks at a path inside: in the root, or in what is bound over it.
fn look(bundle: &Bundle, ground: &Ground, path: &Path) -> Found {
    let path = plain(path);
    let binds = bundle.plan.binds.iter().zip(&ground.binds);
    let over = binds.filter_map(|(bind, source)| Some((source, path.strip_prefix(&bind.target).ok()?)));
    // The innermost of them is what is seen.
    match over.min_by_key(|(_, rest)| rest.components().count()) {
        Some((source, rest)) if rest.as_os_str().is_empty() => kind(source, Path::new("."), true),
        Some((source, rest)) => kind(source, rest, false),
        None => kind(&ground.root(), path.strip_prefix("/").unwrap_or(&path), false),
    }
}

/// Says what is at a path beneath a root, or what the root itself is.
fn kind(root: &Path, path: &Path, is_itself: bool) -> Found {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::open(root, flags, Mode::empty()) else { return Found::Nothing };
    let file = if is_itself {
        Ok(root)
    } else {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)
    };
    let Ok(file) = file else { return Found::Nothing };
    let Ok(stat) = rustix::fs::fstat(&file) else { return Found::Nothing };
    let is_program = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0;
    if is_program { Found::Program } else { Found::Other }
}

/// Returns a path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::from("/"), |mut plain, part| {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => drop(plain.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
        plain
    })
}
