//! The shelf: which layers stand where, who uses them, and which goes first. Every method is short and blocks.
//!
//! Beside `layers/<hex>/` stands `layers/<hex>.json`, whose time of change is when the layer was used last. It is written
//! before the folder gets its name and removed after the folder has lost it: a folder without a note, and a note without
//! a folder, are what a crash leaves, and both are thrown away.
//!
//! A layer is handed out only to whoever names a blob that was seen to unpack to it. Otherwise an image that merely
//! claims the diff id of another tenant's layer would be given that layer's files.

use model::Digest;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
use sandbox::Place;
use sandbox::unpack::Unpacked;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What an entry takes on a disk besides its content.
const ENTRY_BYTES: u64 = 4096;
/// Bytes of a note.
const MAX_NOTE_BYTES: u64 = 4096;
/// Blobs that are remembered to unpack to one layer; others prove it again.
const MAX_BLOBS: usize = 16;

/// What is noted of a layer.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    bytes: u64,
    place: Place,
    blobs: Vec<Digest>,
}

#[derive(Debug)]
struct Kept {
    bytes: u64,
    /// The blobs that were seen to unpack to it.
    blobs: Vec<Digest>,
    leases: usize,
    /// Counts up with every use.
    used: u64,
}

/// All layers that are there.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    place: Place,
    layers: HashMap<String, Kept>,
    uses: u64,
    put_aside: u64,
}

/// Returns what a layer takes.
pub(super) const fn cost(unpacked: &Unpacked) -> u64 {
    unpacked.bytes.saturating_add(unpacked.entries.saturating_mul(ENTRY_BYTES))
}

/// Removes a tree, also one whose folders its own owner may not open.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(folder)?;
            fs::remove_dir_all(folder)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn open_up(folder: &Path) -> io::Result<()> {
    let mut todo = vec![folder.to_owned()];
    while let Some(folder) = todo.pop() {
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // Says of a link that it is one, so nothing outside is touched.
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    Ok(())
}

impl Shelf {
    /// Learns what is there, and throws away what is not whole or was unpacked for other ids.
    pub(super) fn open(folder: &Path, place: Place) -> io::Result<Self> {
        let scratch = folder.join("scratch");
        let layers = folder.join("layers");
        remove(&scratch)?;
        fs::create_dir_all(&scratch)?;
        fs::set_permissions(&scratch, Permissions::from_mode(0o700))?;
        fs::create_dir_all(&layers)?;
        fs::set_permissions(&layers, Permissions::from_mode(0o711))?;
        let mut found: Vec<(SystemTime, String, Note)> = Vec::new();
        let mut notes = Vec::new();
        for entry in fs::read_dir(&layers)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.ends_with(".json") {
                notes.push(path);
                continue;
            }
            let note = layers.join(format!("{name}.json"));
            match read_note(&note, place) {
                Some((used, note)) if model::image::is_sha256(&format!("sha256:{name}")) => {
                    found.push((used, name.to_owned(), note));
                }
                _ => remove(&path)?,
            }
        }
        for note in notes {
            if !note.with_extension("").is_dir() {
                fs::remove_file(note)?;
            }
        }
        found.sort_by_key(|(used, ..)| *used);
        let layers = found.into_iter().zip(0..);
        let layers: HashMap<_, _> = layers
            .map(|((_, name, note), used)| (name, Kept { bytes: note.bytes, blobs: note.blobs, leases: 0, used }))
            .collect();
        let uses = layers.len() as u64;
        Ok(Self { folder: folder.to_owned(), place, layers, uses, put_aside: 0 })
    }

    /// Returns the bytes of all layers.
    pub(super) fn bytes(&self) -> u64 {
        self.layers.values().map(|kept| kept.bytes).fold(0, u64::saturating_add)
    }

    /// Tells whether a layer is there.
    pub(super) fn has(&self, hex: &str) -> bool {
        self.layers.contains_key(hex)
    }

    /// Counts one more user of a layer; false when it is not there, or was never seen to come from this blob.
    pub(super) fn lease(&mut self, hex: &str, blob: Digest) -> bool {
        let Some(kept) = self.layers.get_mut(hex).filter(|kept| kept.blobs.contains(&blob)) else { return false };
        kept.leases += 1;
        kept.used = self.uses;
        self.uses += 1;
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        // Only the order in which layers go after a restart depends on it.
        let _ = utimensat(CWD, self.note(hex), &times, AtFlags::empty());
        true
    }

    /// Counts one user less.
    pub(super) fn release(&mut self, hex: &str) {
        if let Some(kept) = self.layers.get_mut(hex) {
            kept.leases -= 1;
        }
    }

    /// Gives a folder that a blob unpacked to its name, unless the layer is there already, and leases the layer.
    pub(super) fn place(&mut self, hex: &str, folder: &Path, bytes: u64, blob: Digest) -> io::Result<()> {
        let known = self.layers.get(hex).map(|kept| kept.blobs.as_slice()).unwrap_or_default();
        let blobs: Vec<_> = [blob].into_iter().chain(known.iter().copied()).take(MAX_BLOBS).collect();
        let bytes = self.layers.get(hex).map_or(bytes, |kept| kept.bytes);
        let note = Note { bytes, place: self.place, blobs: blobs.clone() };
        fs::write(self.note(hex), serde_json::to_vec(&note)?)?;
        if !self.layers.contains_key(hex) {
            fs::rename(folder, self.folder.join("layers").join(hex))?;
        }
        let kept = self.layers.entry(hex.to_owned());
        kept.or_insert(Kept { bytes, blobs: Vec::new(), leases: 0, used: 0 }).blobs = blobs;
        self.lease(hex, blob);
        Ok(())
    }

    /// Takes unused layers away until no more than so many bytes are left; returns the folders to be removed.
    pub(super) fn evict(&mut self, bytes_max: u64) -> io::Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        while self.bytes() > bytes_max {
            let unused = self.layers.iter().filter(|(_, kept)| kept.leases == 0);
            let Some(hex) = unused.min_by_key(|(_, kept)| kept.used).map(|(hex, _)| hex.clone()) else { break };
            let aside = self.folder.join("layers").join(format!(".old-{}", self.put_aside));
            self.put_aside += 1;
            fs::rename(self.folder.join("layers").join(&hex), &aside)?;
            self.layers.remove(&hex);
            removed.push(aside);
            fs::remove_file(self.note(&hex))?;
        }
        Ok(removed)
    }

    fn note(&self, hex: &str) -> PathBuf {
        self.folder.join("layers").join(format!("{hex}.json"))
    }
}

/// Returns when a layer was used last and what it takes, if it was unpacked for these ids.
fn read_note(path: &Path, place: Place) -> Option<(SystemTime, Note)> {
    let about = fs::metadata(path).ok().filter(|about| about.len() <= MAX_NOTE_BYTES)?;
    let note: Note = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let used = about.modified().ok()?;
    (note.place == place).then_some((used, note))
}
