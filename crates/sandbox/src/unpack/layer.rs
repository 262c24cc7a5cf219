//! What becomes of a layer's entries: which are written, which hide what lies below, and which are left out.
//!
//! Decisions: set-id bits are kept, for what is mounted `nosuid` and run under `no_new_privs` they mean nothing, and an
//! image that asks for its own modes back gets them. Owners are kept exactly; an id that a sandbox does not have refuses
//! the layer, because a file of the wrong owner would go unseen. Device nodes are left out, as no sandbox may open one.
//! A path that leads through a symbolic link of the same layer is refused, and a missing folder on it is made.

use super::archive::{Archive, Entry, Kind};
use super::stream::Stream;
use super::tree::{self, Place, Tree};
use super::{Task, UnpackError, Unpacked};
use std::io::Read;
use std::os::unix::fs::FileExt;

/// What a name that hides another begins with.
const WHITEOUT: &[u8] = b".wh.";
/// The name that hides all that lies below its folder.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What other names begin with that an old file system left behind.
const AUFS: &[u8] = b".wh..wh.";

/// Unpacks an archive into this process's root.
pub(super) fn unpack(input: impl Read + 'static, task: &Task) -> Result<Unpacked, UnpackError> {
    let root = tree::open_root().map_err(|error| UnpackError::machine("the root cannot be opened", &error.into()))?;
    let ids = match task.place {
        crate::Place::Range { count, .. } => Some(count),
        crate::Place::Own => None,
    };
    // Headers and padding come on top of what the files hold.
    let stream_max = task.bytes_max.saturating_add(task.entries_max.saturating_mul(4096));
    let mut archive = Archive::new(Stream::new(input, task.packing, stream_max)?);
    let mut layer = Layer { tree: Tree::new(root, ids), bytes: 0, entries: 0, skipped: 0 };
    while let Some(entry) = archive.next()? {
        layer.entries += 1;
        if layer.entries > task.entries_max {
            return Err(UnpackError::Archive(format!("it has more than {} entries", task.entries_max)));
        }
        if entry.kind == Kind::File {
            layer.bytes = layer.bytes.saturating_add(entry.size);
            if layer.bytes > task.bytes_max {
                return Err(UnpackError::Large(task.bytes_max));
            }
        }
        layer.write(&mut archive, &entry)?;
    }
    layer.tree.finish()?;
    let (diff_id, archive_bytes) = archive.finish()?;
    Ok(Unpacked { diff_id, archive_bytes, bytes: layer.bytes, entries: layer.entries, skipped: layer.skipped })
}

/// A layer while it is written.
struct Layer {
    tree: Tree,
    bytes: u64,
    entries: u64,
    skipped: u64,
}

impl Layer {
    fn write(&mut self, archive: &mut Archive, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind == Kind::Other {
            self.skipped += 1;
            return Ok(());
        }
        let place = Place::new(&entry.path)?;
        if place.is_root() && entry.kind != Kind::Folder {
            return Err(UnpackError::Archive("it puts something in place of its own root".to_owned()));
        }
        if let Some(hidden) = place.name().strip_prefix(WHITEOUT) {
            return self.hide(&place, hidden);
        }
        match entry.kind {
            Kind::File => {
                let file = self.tree.file(&place)?;
                archive.content(entry, |offset, piece| {
                    file.write_all_at(piece, offset)
                        .map_err(|error| UnpackError::machine("a file cannot be written", &error))
                })?;
                // Holes at the end are of no piece.
                file.set_len(entry.size).map_err(|error| UnpackError::machine("a file cannot be written", &error))?;
                self.tree.finish_file(&place, &file, entry)
            }
            Kind::Folder => self.tree.folder(&place, entry),
            Kind::Symlink => self.tree.symlink(&place, entry),
            Kind::HardLink => {
                let target = Place::new(&entry.link)?;
                self.tree.hard_link(&place, &target)
            }
            Kind::Fifo => self.tree.fifo(&place, entry),
            Kind::Device | Kind::Other => {
                self.skipped += 1;
                Ok(())
            }
        }
    }

    fn hide(&mut self, place: &Place, hidden: &[u8]) -> Result<(), UnpackError> {
        if place.name() == OPAQUE {
            return self.tree.hide_below(&place.folder());
        }
        if place.name().starts_with(AUFS) {
            self.skipped += 1;
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(UnpackError::Archive(format!("`{}` hides what is no name", place.shown())));
        }
        self.tree.hide(&place.beside(hidden))
    }
}
