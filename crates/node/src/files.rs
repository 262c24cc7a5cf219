//! Blobs that executions see as files, kept a while for the next one that needs them.
//!
//! A file appears under its digest only when it is whole and verified; until then it is a draft, which goes with whoever
//! fetches it. Executables have a second life under their own name,
//! since a file in use may not change its mode. What nobody uses goes when the budget is passed, oldest first.

use crate::image::{BlobFault, Blobs};
use crate::scratch::Scratch;
use model::Digest;
use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

/// Where files are as long as they are not whole.
const DRAFTS: &str = "drafts";

/// Why a blob cannot be had as a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// It could not be fetched.
    #[error("blob `{digest}` cannot be fetched: {cause}")]
    Fetch {
        /// Which.
        digest: Digest,
        /// Why.
        cause: BlobFault,
    },
    /// It could not be kept.
    #[error("blob `{digest}` cannot be kept on this node")]
    Keep {
        /// Which.
        digest: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A blob as a file; it stays as long as this lives.
#[derive(Debug)]
pub(crate) struct Kept {
    path: PathBuf,
}

impl Kept {
    /// Returns where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

type Entry = Arc<tokio::sync::Mutex<Weak<Kept>>>;

/// The files of a node.
pub(crate) struct Files {
    folder: PathBuf,
    budget_bytes: u64,
    entries: Mutex<HashMap<String, Entry>>,
}

impl Files {
    /// Opens the folder and throws away what was left half made.
    pub(crate) fn open(folder: PathBuf, budget_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        // Others on this machine have no business here; the sandboxes get each file by a mount of its own.
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        let drafts = folder.join(DRAFTS);
        match fs::remove_dir_all(&drafts) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => fs::create_dir(drafts)?,
        }
        Ok(Self { folder, budget_bytes, entries: Mutex::default() })
    }

    /// Returns a blob as a file that can be read, or run; whoever asks for the same at once waits for the first.
    pub(crate) async fn get<B: Blobs>(&self, digest: Digest, form: Form, blobs: &B) -> Result<Arc<Kept>, FileError> {
        let name = match form {
            Form::Plain => digest.to_string(),
            Form::Executable => format!("{digest}.x"),
            Form::Dump => format!("{digest}.d"),
        };
        let entry = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            // Entries that nobody holds cost nothing but their name; they go with the next sweep.
            Arc::clone(entries.entry(name.clone()).or_default())
        };
        let mut held = entry.lock().await;
        if let Some(kept) = held.upgrade() {
            return Ok(kept);
        }
        let path = self.folder.join(&name);
        let keep = |source| FileError::Keep { digest, source };
        if !path.exists() {
            self.make_room().map_err(keep)?;
            let draft = Scratch::new(&self.folder.join(DRAFTS)).map_err(keep)?;
            let fetched = blobs.fetch(digest, draft.path()).await;
            fetched.map_err(|cause| FileError::Fetch { digest, cause })?;
            let mode = if form == Form::Executable { 0o555 } else { 0o444 };
            fs::set_permissions(draft.path(), Permissions::from_mode(mode)).map_err(keep)?;
            fs::rename(draft.path(), &path).map_err(keep)?;
        }
        let kept = Arc::new(Kept { path });
        *held = Arc::downgrade(&kept);
        Ok(kept)
    }

    /// Removes what nobody uses, oldest first, until the budget is kept.
    fn make_room(&self) -> io::Result<()> {
        let mut found: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                continue;
            }
            // A dump has holes, which take nothing.
            let bytes = metadata.len().min(metadata.blocks().saturating_mul(512));
            found.push((metadata.modified()?, bytes, entry.path()));
        }
        let mut total: u64 = found.iter().map(|(_, bytes, _)| bytes).sum();
        found.sort();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, entry| Arc::strong_count(entry) > 1 || !is_free(entry));
        for (_, bytes, path) in found {
            if total <= self.budget_bytes {
                break;
            }
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !entries.contains_key(name) {
                fs::remove_file(&path)?;
                total -= bytes;
            }
        }
        Ok(())
    }
}

/// Whether a file can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// It is only read.
    Plain,
    /// It is a program.
    Executable,
    /// It is not the blob itself, but the dump that it is the manifest of.
    Dump,
}

fn is_free(entry: &Entry) -> bool {
    entry.try_lock().is_ok_and(|kept| kept.strong_count() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Blobs whose content is their digest's first letter, as often as `bytes` says.
    struct Source {
        bytes: usize,
        fetched: AtomicU32,
    }

    impl Blobs for Source {
        async fn store(&self, _: Digest, _: u64, _: &Path) -> Result<(), BlobFault> {
            Err("is not asked for".into())
        }

        async fn fetch(&self, _: Digest, file: &Path) -> Result<(), BlobFault> {
            self.fetched.fetch_add(1, Ordering::Relaxed);
            fs::write(file, vec![b'x'; self.bytes])?;
            Ok(())
        }
    }

    fn digest(number: u8) -> Digest {
        Digest::from_bytes([number; 32])
    }

    #[tokio::test]
    async fn a_file_is_fetched_once_and_stays_while_it_is_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = Files::open(folder.path().join("files"), 250).expect("opens");
        let source = Source { bytes: 100, fetched: AtomicU32::new(0) };
        let first = files.get(digest(1), Form::Plain, &source).await.expect("is had");
        let again = files.get(digest(1), Form::Plain, &source).await.expect("is had");
        assert_eq!((first.path(), source.fetched.load(Ordering::Relaxed)), (again.path(), 1));
        for number in 2..=6 {
            let kept = files.get(digest(number), Form::Executable, &source).await.expect("is had");
            assert_eq!(fs::metadata(kept.path()).expect("is there").permissions().mode() & 0o777, 0o555);
        }
        assert!(first.path().exists(), "what is used stays");
        let count = fs::read_dir(folder.path().join("files")).expect("lists").count();
        assert!(count <= 5, "{count} files are more than the drafts' folder, the budget of two and what came last");
    }

    #[tokio::test]
    async fn what_was_left_half_made_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("drafts/7")).expect("made");
        fs::write(folder.path().join("drafts/7/file"), "half").expect("written");
        Files::open(folder.path().to_owned(), 0).expect("opens");
        assert_eq!(fs::read_dir(folder.path().join("drafts")).expect("lists").count(), 0);
    }

    #[tokio::test]
    async fn whoever_gives_up_leaves_the_file_to_the_next() {
        /// Blobs of which each first fetch never ends.
        struct Slow(AtomicU32);
        impl Blobs for Slow {
            async fn store(&self, _: Digest, _: u64, _: &Path) -> Result<(), BlobFault> {
                Err("is not asked for".into())
            }

            async fn fetch(&self, _: Digest, file: &Path) -> Result<(), BlobFault> {
                fs::File::create_new(file)?;
                if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
                    std::future::pending::<()>().await;
                }
                Ok(())
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let files = Files::open(folder.path().to_owned(), 0).expect("opens");
        let slow = Slow(AtomicU32::new(0));
        let given_up = tokio::time::timeout(std::time::Duration::ZERO, files.get(digest(1), Form::Plain, &slow)).await;
        assert!(given_up.is_err());
        assert_eq!(fs::read_dir(folder.path().join("drafts")).expect("lists").count(), 0);
        files.get(digest(1), Form::Plain, &slow).await.expect("is had");
    }
}
