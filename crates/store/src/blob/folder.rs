//! The folders of a local store, and that they outlast a power cut.
//!
//! `object_store` fsyncs what it writes and the folder it renames into. What it cannot know is whether a folder that
//! another upload has just made is itself on disk yet; so every leaf folder is made and fsynced here, up to the root,
//! before the first upload into it, once in the life of the process.
//!
//! The temporary file of an upload that is still going on is never swept, however old: `object_store` would give its
//! name to the next upload, and the first one would then publish a file that is not its own.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

/// How deep temporary files may lie below the root: `blobs/ab/cd/<name>`.
const MAX_DEPTH: usize = 4;

/// The folders below one root.
#[derive(Clone, Debug)]
pub(super) struct Folders {
    root: Arc<Path>,
    /// One bit for each leaf folder `ab/cd` that is known to be on disk.
    known: Arc<[AtomicU64]>,
    live: Arc<Live>,
}

/// The files that uploads of this process are on their way to, and how many of them.
#[derive(Debug, Default)]
struct Live(Mutex<BTreeMap<PathBuf, usize>>);

impl Live {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, usize>> {
        // Counting cannot fail half-way, so what a panic elsewhere left is still right.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the temporary files of one upload from being swept, until dropped.
#[derive(Debug)]
pub(super) struct Claim {
    live: Arc<Live>,
    file: PathBuf,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut live = self.live.lock();
        if let Some(count) = live.get_mut(&self.file) {
            *count -= 1;
            if *count == 0 {
                live.remove(&self.file);
            }
        }
    }
}

impl Folders {
    /// Makes the root and the folders in it. What is in them is nobody else's to read.
    pub(super) fn open(root: &Path, inside: &[&str]) -> io::Result<Self> {
        make_folder(root)?;
        let root = root.canonicalize()?;
        inside.iter().try_for_each(|name| make_folder(&root.join(name)))?;
        // Folders we found may have been made by a process that died before its own fsync.
        sync_folder(&root)?;
        if let Some(parent) = root.parent() {
            // What was there before us may lie in a folder that is not ours to open; then it is as safe as it was.
            let _ = sync_folder(parent);
        }
        Ok(Self { root: root.into(), known: (0..1024).map(|_| AtomicU64::new(0)).collect(), live: Arc::default() })
    }

    /// Returns the root, without symbolic links.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the leaf folder `blobs/ab/cd` durable before something is written into it.
    pub(super) async fn prepare(&self, leaf: [u8; 2]) -> io::Result<()> {
        let number = usize::from(u16::from_be_bytes(leaf));
        let (word, bit) = (number / 64, 1 << (number % 64));
        if self.known[word].load(Ordering::Acquire) & bit != 0 {
            return Ok(());
        }
        let folders = self.clone();
        blocking(move || {
            let outer = folders.root.join(format!("blobs/{:02x}", leaf[0]));
            DirBuilder::new().recursive(true).mode(0o700).create(outer.join(format!("{:02x}", leaf[1])))?;
            // Even if the folders were there: whoever made them may have died before its own fsync.
            sync_folder(&outer)?;
            sync_folder(&folders.root.join("blobs"))?;
            folders.known[word].fetch_or(bit, Ordering::Release);
            Ok(())
        })
        .await
    }

    /// Makes sure that the names in a leaf folder are on disk, whoever wrote them.
    pub(super) async fn settle(&self, leaf: [u8; 2]) -> io::Result<()> {
        self.prepare(leaf).await?;
        let folder = self.root.join(format!("blobs/{:02x}/{:02x}", leaf[0], leaf[1]));
        blocking(move || sync_folder(&folder)).await
    }

    /// Claims the temporary files of an upload to `key`.
    pub(super) fn claim(&self, key: &str) -> Claim {
        let file = self.root.join(key);
        *self.live.lock().entry(file.clone()).or_default() += 1;
        Claim { live: self.live.clone(), file }
    }

    /// Removes the temporary files (`name#7`) that were last written before `older_than_us`, and counts them.
    pub(super) async fn sweep(&self, older_than_us: i64) -> io::Result<u64> {
        let folders = self.clone();
        blocking(move || folders.sweep_folder(&folders.root, older_than_us, MAX_DEPTH)).await
    }

    fn sweep_folder(&self, folder: &Path, older_than_us: i64, depth: usize) -> io::Result<u64> {
        let mut removed = 0;
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            // Symbolic links are neither folders nor files here, so nothing outside the root is touched.
            let kind = entry.file_type()?;
            if kind.is_dir() && depth > 1 {
                removed += self.sweep_folder(&entry.path(), older_than_us, depth - 1)?;
            } else if kind.is_file()
                && let Some(name) = final_name(&entry.file_name().to_string_lossy())
                && !self.live.lock().contains_key(&folder.join(name))
            {
                removed += u64::from(remove_old(&entry, older_than_us)?);
            }
        }
        Ok(removed)
    }
}

/// Makes a folder and all above it that are missing, and fsyncs every folder whose names changed.
fn make_folder(folder: &Path) -> io::Result<()> {
    let folder = std::path::absolute(folder)?;
    let missing: Vec<PathBuf> =
        folder.ancestors().take_while(|folder| !folder.is_dir()).map(Path::to_path_buf).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    missing.iter().filter_map(|made| made.parent()).try_for_each(sync_folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Returns the name that a temporary file is on its way to, if it is one.
fn final_name(name: &str) -> Option<&str> {
    let (name, number) = name.rsplit_once('#')?;
    (!number.is_empty() && number.bytes().all(|character| character.is_ascii_digit())).then_some(name)
}

/// A file that went away in the meantime was finished or given up by its own upload.
fn remove_old(entry: &std::fs::DirEntry, older_than_us: i64) -> io::Result<bool> {
    let removed = entry.metadata().and_then(|metadata| {
        let written = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let old = i64::try_from(written.as_micros()).unwrap_or(i64::MAX) < older_than_us;
        if old {
            std::fs::remove_file(entry.path())?;
        }
        Ok(old)
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_temporary_names_are_swept() {
        let check = |name: &str, expected: Option<&str>| assert_eq!(final_name(name), expected, "{name}");
        check("ab#1", Some("ab"));
        check("ab.tree#12", Some("ab.tree"));
        check("ab", None);
        check("ab#", None);
        check("ab#1x", None);
        check("ab#x1", None);
    }

    #[tokio::test]
    async fn a_missing_folder_is_made_with_its_parents() {
        let outer = tempfile::tempdir().expect("a temporary folder can be made");
        let root = outer.path().join("a/b/c");
        let folders = Folders::open(&root, &["blobs"]).expect("a missing folder is made");
        folders.prepare([0xab, 0xcd]).await.expect("a leaf can be made");
        folders.settle([0xab, 0xcd]).await.expect("a leaf can be synced");
        assert!(root.join("blobs/ab/cd").is_dir());
        let mode = std::os::unix::fs::PermissionsExt::mode(&root.metadata().expect("it is there").permissions());
        assert_eq!(mode & 0o777, 0o700);
        assert!(Folders::open(&root, &["blobs"]).is_ok(), "an existing one is taken as it is");
    }
}
